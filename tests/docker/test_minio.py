"""The store of the containers: MinIO behaves as every store of ours, and its two users may do what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from emporter_contracts.storage import BUCKETS, INBOX, RAW, VOLUMES
from emporter_runtime.objects import Objects, StoreRefusedError
from emporter_runtime.provision import make_buckets
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing_objects import ObjectsSuite

pytestmark = pytest.mark.docker

USERS = Path(__file__).resolve().parents[2] / "deploy" / "minio"


@dataclass(frozen=True)
class Store:
    """A running MinIO, as each of its users sees it."""

    services: StoreSettings
    client: StoreSettings
    make_users: Callable[[], tuple[int, bytes]]


@pytest.fixture(scope="module")
def store(deployed_image: Callable[[str], str], secrets: dict[str, str]) -> Iterator[Store]:
    from testcontainers.community.minio import MinioContainer

    root = secrets["MINIO_ROOT_USER"], secrets["MINIO_ROOT_PASSWORD"]
    container = (
        MinioContainer(image=deployed_image("s3"), access_key=root[0], secret_key=root[1])
        .with_env("MINIO_ROOT_USER", root[0])
        .with_env("MINIO_ROOT_PASSWORD", root[1])
        .with_volume_mapping(str(USERS), "/etc/emporter", "ro")
        .with_kwargs(extra_hosts={"s3": "127.0.0.1"})
    )
    with container as minio:
        endpoint = f"http://{minio.get_config()['endpoint']}"

        def user(prefix: str) -> StoreSettings:
            secret = SecretStr(secrets[f"{prefix}_SECRET_KEY"])
            return StoreSettings(s3_endpoint=endpoint, s3_access_key=secrets[f"{prefix}_ACCESS_KEY"], s3_secret_key=secret)

        def make_users() -> tuple[int, bytes]:
            done = minio.get_wrapped_container().exec_run(["/bin/sh", "/etc/emporter/users.sh"], environment=secrets)
            return done.exit_code, done.output

        code, said = make_users()
        assert code == 0, said
        made = Store(user("EMPORTER_S3"), user("EMPORTER_CLIENT_S3"), make_users)
        make_buckets(made.services)
        yield made


class TestMinio(ObjectsSuite):
    @pytest.fixture
    async def objects(self, store: Store) -> Objects:
        objects = Objects.open(store.services)
        for bucket in BUCKETS:
            await objects.delete(bucket, [info.key async for info in objects.listing(bucket)])
        return objects


def test_users_and_buckets_are_made_again_without_complaint(store: Store) -> None:
    code, said = store.make_users()
    assert code == 0, said
    make_buckets(store.services)


async def test_a_client_reads_and_writes_the_inbox(store: Store) -> None:
    client = Objects.open(store.client)
    await client.put(INBOX, "upload/stack.tif", b"II*\0")
    assert await client.get(INBOX, "upload/stack.tif") == b"II*\0"
    assert [info.key async for info in client.listing(INBOX, "upload/")] == ["upload/stack.tif"]


@pytest.mark.parametrize("bucket", [RAW, VOLUMES])
async def test_a_client_reaches_no_other_bucket(store: Store, bucket: str) -> None:
    await Objects.open(store.services).put(bucket, "theirs", b"1")
    client = Objects.open(store.client)
    with pytest.raises(StoreRefusedError):
        await client.get(bucket, "theirs")
    with pytest.raises(StoreRefusedError):
        await client.put(bucket, "mine", b"2")


async def test_a_client_takes_nothing_away(store: Store) -> None:
    client = Objects.open(store.client)
    await client.put(INBOX, "upload/kept.tif", b"1")
    with pytest.raises(StoreRefusedError):
        await client.delete(INBOX, ["upload/kept.tif"])
    assert await client.exists(INBOX, "upload/kept.tif")
