"""One behaviour of objects, whatever they lie in: memory, a folder, a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emporter_contracts.commands import Refusal
from emporter_contracts.storage import BUCKETS, RAW, VOLUMES
from emporter_runtime.errors import StoreUnavailableError
from emporter_runtime.objects import Objects, StoreRefusedError, json_bytes
from emporter_runtime.provision import make_buckets
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_bus import free_port
from emporter_runtime.testing_objects import ObjectsSuite


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    with s3_server(tmp_path_factory.mktemp("s3")) as settings:
        make_buckets(settings)
        yield settings


class TestMemory(ObjectsSuite):
    @pytest.fixture
    def objects(self) -> Objects:
        return Objects.in_memory()


class TestFolder(ObjectsSuite):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> Objects:
        return Objects.open(StoreSettings(store_url=f"file://{tmp_path}/store"))

    async def test_a_bucket_is_a_plain_folder(self, objects: Objects, tmp_path: Path) -> None:
        await objects.put(RAW, "a/b", b"1")
        assert (tmp_path / "store" / RAW / "a" / "b").read_bytes() == b"1"
        assert objects.local_path(RAW, "a/b") == tmp_path / "store" / RAW / "a" / "b"
        assert (objects.free_bytes() or 0) > 0


class TestS3(ObjectsSuite):
    @pytest.fixture
    async def objects(self, s3: StoreSettings) -> Objects:
        objects = Objects.open(s3)
        for bucket in BUCKETS:
            await objects.delete(bucket, [info.key async for info in objects.listing(bucket)])
        return objects

    async def test_wrong_keys_are_refused_with_a_hint(self, s3: StoreSettings) -> None:
        wrong = s3.model_copy(update={"s3_access_key": "nobody"})
        with pytest.raises(StoreRefusedError, match="EMPORTER_S3_ACCESS_KEY"):
            await Objects.open(wrong).get(RAW, "a")

    async def test_a_store_that_is_down_is_unavailable_never_empty(self, s3: StoreSettings) -> None:
        down = Objects.open(s3.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"}))
        with pytest.raises(StoreUnavailableError):
            await down.get(RAW, "a")
        assert not await down.ready()


def test_equal_values_are_equal_bytes() -> None:
    assert json_bytes(Refusal(code="a", message="b")) == json_bytes(Refusal.model_validate({"message": "b", "code": "a"}))


def test_a_store_without_an_endpoint_is_aws() -> None:
    assert "s3_endpoint" not in StoreSettings().model_fields_set
    kvstore = Objects.open(StoreSettings()).kvstore(VOLUMES, "v/r1.ome.zarr/")
    assert kvstore["bucket"] == "emporter-volumes"
    assert "endpoint" not in kvstore
