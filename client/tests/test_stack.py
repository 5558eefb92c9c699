"""The whole stack on this machine: up, down, killed, up again."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import minio
import psutil
import pytest

from emporter.connection import find_connection
from emporter.errors import NoStackError, StackError, StackIsUpError
from emporter.stack.choices import choices_of
from emporter.stack.detached import start_detached
from emporter.stack.files import StackFiles
from emporter.stack.plan import StackOptions, StackPlan
from emporter.stack.stopping import take_down
from emporter.testing import RunningStack, kill_supervisor, running_stack
from emporter_contracts.storage import BUCKETS, INBOX, RAW
from emporter_runtime.objects import Objects, StoreRefusedError

SERVICES = ("fetcher", "converter", "cataloger", "block-server")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


def test_everything_answers_when_up_returns(stack: RunningStack) -> None:
    for url in (stack.urls.catalog, stack.urls.blocks):
        assert status_of(f"{url}/readyz") == 200
    assert set(stack.urls.processes) == {"nats", "s3", *SERVICES}
    assert stack.client().jobs() == []


@pytest.mark.parametrize("name", ["stack.json", "operator.json", "chosen.json", "nats.conf", "s3.json"])
def test_files_with_credentials_are_for_their_owner_only(stack: RunningStack, name: str) -> None:
    assert stat.S_IMODE((stack.dir / name).stat().st_mode) == 0o600


def test_clients_are_told_nothing_of_the_services_credentials(stack: RunningStack) -> None:
    told, operator = (stack.dir / "stack.json").read_text(), json.loads((stack.dir / "operator.json").read_text())
    assert operator["nats_password"] not in told
    assert operator["s3_secret_key"] not in told


def test_everything_listens_on_the_loopback_only(stack: RunningStack) -> None:
    for name in stack.urls.processes:
        listening = [c.laddr.ip for c in stack.process(name).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert listening, name
        assert set(listening) == {"127.0.0.1"}, name


def test_up_where_a_stack_is_up_says_so_and_leaves_it_alone(stack: RunningStack) -> None:
    before = stack.urls
    with pytest.raises(StackIsUpError, match="up already"):
        start_detached(StackOptions(stack.dir), lambda _: None)
    assert stack.urls == before


async def test_the_clients_key_opens_the_inbox_and_nothing_else(stack: RunningStack) -> None:
    objects, mine = stack.objects(), Objects.open(find_connection(stack.dir).inbox())
    for bucket in BUCKETS:
        await objects.put(bucket, "folder/secret", b"voxels")
    await mine.put(INBOX, "folder/mine", b"mine")
    assert await mine.get(INBOX, "folder/secret") == b"voxels"
    for bucket in set(BUCKETS) - {INBOX}:
        for refused in (
            mine.get(bucket, "folder/secret"),
            mine.head(bucket, "folder/secret"),
            mine.put(bucket, "folder/mine", b"mine"),
            mine.create(bucket, "folder/mine", b"mine"),
        ):
            with pytest.raises(StoreRefusedError):
                await refused
        assert not await mine.ready()
        assert await objects.names(bucket, "folder/") == ["secret"]


def test_the_clients_key_can_neither_make_nor_open_buckets(stack: RunningStack) -> None:
    info = stack.urls
    assert info.s3 is not None
    client = minio.Minio(
        info.s3.removeprefix("http://"), info.inbox_access_key, info.inbox_secret_key, secure=False, region="us-east-1"
    )
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["s3:*"], "Resource": ["*"]}],
    }
    copied = minio.commonconfig.CopySource(RAW, "folder/secret")
    for forbidden in (
        lambda: client.make_bucket("emporter-mine"),
        lambda: client.remove_bucket(RAW),
        lambda: client.set_bucket_policy(RAW, json.dumps(policy)),
        lambda: client.set_bucket_policy(INBOX, json.dumps(policy)),
        lambda: client.copy_object(INBOX, "folder/stolen", copied),
    ):
        with pytest.raises(minio.error.S3Error, match="AccessDenied"):
            forbidden()
    client._http.clear()


@pytest.mark.parametrize("part", ["s3_filer", "s3_volume"])
def test_the_stores_inner_ports_give_nothing_without_a_token(stack: RunningStack, part: str) -> None:
    port = json.loads((stack.dir / "chosen.json").read_text())["ports"][part]
    for path in ("", f"buckets/{RAW}/folder/secret", "1,0123456789"):
        assert status_of(f"http://127.0.0.1:{port}/{path}") == 401


def test_the_store_is_closed_to_strangers(stack: RunningStack) -> None:
    assert status_of(f"{stack.urls.s3}/{RAW}/folder/secret") == 403


@pytest.mark.parametrize("name", ["converter", "nats", "s3"])
def test_a_process_that_is_killed_is_started_again(stack: RunningStack, name: str) -> None:
    killed = stack.kill(name)
    assert stack.restarted(name, killed).pid != killed
    stack.until_ready()


def test_a_killed_supervisor_leaves_no_child_and_up_again_finds_everything(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        before = stack.urls
        asyncio.run(stack.objects().put(INBOX, "kept/file", b"kept"))
        children = [psutil.Process(identity.pid) for identity in before.processes.values()]
        kill_supervisor(stack)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []
        with pytest.raises(NoStackError, match="is down"):
            find_connection(tmp_path)
        with running_stack(tmp_path) as again:
            after = again.urls
            assert (after.nats, after.s3, after.catalog, after.blocks) == (before.nats, before.s3, before.catalog, before.blocks)
            assert (after.nats_password, after.inbox_secret_key) == (before.nats_password, before.inbox_secret_key)
            assert asyncio.run(again.objects().get(INBOX, "kept/file")) == b"kept"
            assert again.client().jobs() == []


def test_a_stack_goes_down_with_whoever_holds_its_lifeline(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start_detached(StackOptions(tmp_path, "file"), lambda _: None, reading)
    os.close(reading)
    info = StackFiles.at(tmp_path).info()
    assert info is not None
    assert info.live
    os.close(writing)
    assert process.wait(30) == 0
    assert not any(identity.alive() for identity in info.processes.values())


def test_a_stack_without_s3_keeps_its_volumes_in_a_folder_of_any_name(tmp_path: Path) -> None:
    tmp_path /= "a folder, #1 of 100%20?"
    with running_stack(tmp_path, store="file") as stack:
        assert (stack.dir / "catalog.db").exists()
        assert stack.urls.s3 is None
        assert stack.urls.store == f"file://{stack.dir}/store"
        assert "s3" not in stack.urls.processes
        assert all((stack.dir / "store" / bucket).is_dir() for bucket in BUCKETS)
    with pytest.raises(StackError, match="store of kind file"):
        start_detached(StackOptions(tmp_path, "s3"), lambda _: None)


def test_down_is_orderly_and_down_again_says_that_nothing_is_up(tmp_path: Path) -> None:
    with running_stack(tmp_path, store="file") as stack:
        processes = list(stack.urls.processes.values())
        assert take_down(stack.files)
        assert not any(identity.alive() for identity in processes)
        assert not take_down(stack.files)
        for service in SERVICES:
            assert "stopped_cleanly" in stack.log(service), service


def test_a_port_that_another_program_took_is_named_with_that_program(tmp_path: Path) -> None:
    files = StackFiles.at(tmp_path)
    files.make()
    port = choices_of(files, "file").ports["cataloger"]
    said = rf"port {port} of this stack \(cataloger\) is held by .*process {os.getpid()}"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackError, match=said):
        start_detached(StackOptions(tmp_path), lambda _: None)
    assert not files.is_locked()


def test_a_service_that_cant_live_takes_the_stack_down_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StackError) as raised:
        start_detached(StackOptions(tmp_path, "file", environment={"EMPORTER_CONVERTER_MEMORY_BYTES": "none"}), lambda _: None)
    assert "converter died 5 times" in raised.value.message
    assert "EMPORTER_CONVERTER_MEMORY_BYTES" in raised.value.message
    info = StackFiles.at(tmp_path).info()
    assert info is not None
    assert not info.live


def test_services_get_the_users_tuning_but_not_the_users_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPORTER_NATS_URL", "nats://elsewhere:4222")
    monkeypatch.setenv("EMPORTER_S3_SECRET_KEY", "of another stack")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the user")
    monkeypatch.setenv("EMPORTER_SEGMENTS_IN_FLIGHT", "2")
    monkeypatch.setenv("EMPORTER_ACK_WAIT_SECONDS", "7")
    files = StackFiles.at(tmp_path)
    files.make()
    plan = StackPlan(files, StackOptions(tmp_path, file_roots={"scope1": tmp_path}), choices_of(files, None))
    for service in plan.services():
        given = service.environment
        assert given["EMPORTER_NATS_URL"].startswith("nats://127.0.0.1:")
        assert given["EMPORTER_S3_SECRET_KEY"] != "of another stack"
        assert "AWS_SESSION_TOKEN" not in given
        assert given["EMPORTER_SEGMENTS_IN_FLIGHT"] == "2"
        assert given["EMPORTER_ACK_WAIT_SECONDS"] == "7"
        assert given["EMPORTER_SWEEP_SECONDS"] == "5"
        assert json.loads(given["EMPORTER_FILE_ROOTS"]) == {"scope1": str(tmp_path)}


def test_a_folder_begun_without_choices_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    files = StackFiles.at(tmp_path)
    files.make()
    assert choices_of(files, None).store == "file"


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
