"""Make the bus and the buckets what the contracts say. `python -m emporter_runtime.provision`; services only check."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import nats
import nats.errors
from minio import Minio
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from emporter_contracts import topology
from emporter_contracts.storage import BUCKETS
from emporter_runtime.errors import NotProvisionedError
from emporter_runtime.logging import configure_logging, get_logger
from emporter_runtime.objects import bucket_name
from emporter_runtime.settings import Settings, StoreSettings

LOOK_SECONDS = 1.0
"""How often a service looks whether what it waits for is there."""

log = get_logger(__name__)


def stream_config(stream: topology.Stream, replicas: int = 1) -> StreamConfig:
    """A stream of the topology as nats-py says it."""
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.WORK_QUEUE if stream.retention == "workqueue" else RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=stream.max_age,
        max_msgs_per_subject=stream.max_msgs_per_subject,
        discard=DiscardPolicy.NEW if stream.discard_new else DiscardPolicy.OLD,
        discard_new_per_subject=stream.discard_new_per_subject,
        duplicate_window=stream.duplicate_window,
        deny_delete=stream.deny_delete,
        allow_direct=stream.allow_direct,
        allow_msg_schedules=stream.schedules,
        num_replicas=replicas,
    )


def consumer_config(consumer: topology.Consumer, ack_wait: float) -> ConsumerConfig:
    """A consumer of the topology as nats-py says it. A new object each time: FastStream and nats-py write into it."""
    single = consumer.filters[0] if len(consumer.filters) == 1 else None
    return ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_deliver=consumer.max_deliver,
        max_ack_pending=consumer.max_ack_pending,
        filter_subject=single,
        filter_subjects=None if single else list(consumer.filters),
    )


async def apply(js: JetStreamContext, ack_wait: float, replicas: int = 1) -> None:
    """Create or update every stream and consumer. Raises NotProvisionedError on a difference that can't be changed."""
    for stream in topology.STREAMS:
        await _apply_stream(js, stream_config(stream, replicas))
    for consumer in topology.CONSUMERS:
        try:
            await js.add_consumer(consumer.stream, consumer_config(consumer, ack_wait))
        except APIError as error:
            raise NotProvisionedError(
                f"consumer {consumer.name}: {error.description}",
                hint="it exists with other settings that can't be changed; delete it when its queue is empty and provision again",
            ) from error


async def _apply_stream(js: JetStreamContext, config: StreamConfig) -> None:
    assert config.name is not None
    try:
        await js.stream_info(config.name)
    except NotFoundError:
        check_schedules(config, (await js.add_stream(config)).config)
        return
    try:
        check_schedules(config, (await js.update_stream(config)).config)
    except APIError as error:
        raise NotProvisionedError(
            f"stream {config.name}: {error.description}",
            hint="it exists with other settings that can't be changed; drain it, delete it and provision again",
        ) from error


def check_schedules(expected: StreamConfig, found: StreamConfig) -> None:
    """Raises NotProvisionedError where the server took a stream but knows no schedules: it would ring at once, or never."""
    if expected.allow_msg_schedules and not found.allow_msg_schedules:
        raise NotProvisionedError(
            f"stream {expected.name}: this nats-server keeps no schedules",
            hint="run nats-server 2.12 or newer and provision again",
        )


def drift(expected: ConsumerConfig, found: ConsumerConfig) -> list[str]:
    """How a consumer on the server differs from the topology, one line a field."""
    fields = ("ack_policy", "ack_wait", "max_deliver", "max_ack_pending", "filter_subject", "filter_subjects")
    pairs = {name: (getattr(expected, name) or None, getattr(found, name) or None) for name in fields}
    return [f"{name} is {is_}, should be {should}" for name, (should, is_) in pairs.items() if should != is_]


async def missing_consumers(js: JetStreamContext, names: Iterable[str]) -> list[str]:
    """Those of `names` that the server does not have."""
    missing = []
    for name in names:
        try:
            await js.consumer_info(topology.consumer_named(name).stream, name)
        except (NotFoundError, nats.errors.Error, TimeoutError):
            missing.append(name)
    return missing


async def wait_for_topology(js: JetStreamContext, names: Iterable[str], settings: Settings) -> None:
    """Return when every consumer of `names` is there as it should be. Raises NotProvisionedError where one differs."""
    names = list(names)
    while missing := await missing_consumers(js, names):
        log.warning("not_provisioned", missing=missing)
        await asyncio.sleep(LOOK_SECONDS)
    for name in names:
        consumer = topology.consumer_named(name)
        found = (await js.consumer_info(consumer.stream, name)).config
        wrong = drift(consumer_config(consumer, settings.ack_wait_seconds), found)
        if wrong:
            raise NotProvisionedError(f"consumer {name}: {'; '.join(wrong)}", hint="run python -m emporter_runtime.provision")


def make_buckets(settings: StoreSettings) -> None:
    """Create the buckets that are missing."""
    if settings.store_url.startswith("file://"):
        for bucket in BUCKETS:
            (Path(settings.store_url.removeprefix("file://")) / bucket).mkdir(parents=True, exist_ok=True)
        return
    endpoint = urlsplit(settings.s3_endpoint or "https://s3.amazonaws.com")
    client = Minio(
        endpoint.netloc,
        access_key=settings.s3_access_key or None,
        secret_key=settings.s3_secret_key.get_secret_value() or None,
        secure=endpoint.scheme == "https",
        region=settings.s3_region,
    )
    for bucket in BUCKETS:
        name = bucket_name(settings, bucket)
        if not client.bucket_exists(name):
            client.make_bucket(name)


async def provision(settings: Settings, replicas: int = 1) -> None:
    """Apply the topology and make the buckets; idempotent."""
    connection = await nats.connect(
        settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value() if settings.nats_password else None,
        name="emporter-provision",
    )
    try:
        await apply(connection.jetstream(timeout=10), settings.ack_wait_seconds, replicas)
    finally:
        await connection.close()
    await asyncio.to_thread(make_buckets, settings)


class ProvisionSettings(Settings):
    """Also how many copies of each stream a NATS cluster keeps."""

    stream_replicas: int = 1


def main() -> int:
    """The one-shot provision step: exit 0 when all is as it should be, 1 with one line that says what is not."""
    settings = ProvisionSettings()
    configure_logging("provision", settings.log_level, settings.log_format)
    try:
        asyncio.run(provision(settings, settings.stream_replicas))
    except (NotProvisionedError, nats.errors.Error, OSError) as error:
        log.error(  # noqa: TRY400  # one line is what an operator needs
            "provision_failed", error=str(error) or repr(error)
        )
        return 1
    log.info("provisioned", streams=len(topology.STREAMS), consumers=len(topology.CONSUMERS), buckets=list(BUCKETS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
