"""Objects: bytes under keys in buckets, in S3 or in a folder. Nothing above this module knows which.

Every call has an async form and, for worker threads, a blocking one (`…_sync`). Keys come from `emporter_contracts.storage`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, MemoryStore, S3Store

from emporter_contracts.commands import Message
from emporter_contracts.storage import BUCKETS
from emporter_runtime.errors import (
    ConflictError,
    DiskFullError,
    ObjectMissingError,
    PermanentError,
    StoreUnavailableError,
)
from emporter_runtime.settings import StoreSettings

REQUEST_TIMEOUT = timedelta(seconds=60)
"""Of one request to the store: long enough for a 64 MiB segment at 2 MB/s, short enough that a dead store is noticed."""
RETRIES = 3
"""Of one request inside the client, before the failure is the caller's."""

STREAM_PART_BYTES = 8 * 2**20
"""Of one part of a streamed object. S3 takes at most 10,000 parts, so past 80 GB parts must be larger."""
STREAM_PARTS = 4
"""Parts of one streamed object on their way at once."""

Store = LocalStore | MemoryStore | S3Store


class StoreRefusedError(PermanentError):
    """The store knows us and says no: wrong credentials, or no permission for this key."""

    code = "store_refused"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing. `etag` changes whenever the bytes do."""

    key: str
    size: int
    etag: str | None
    modified: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of an object: `data` holds bytes `start` to `stop` (exclusive) of the object `info` tells of."""

    info: ObjectInfo
    start: int
    stop: int
    data: memoryview


def _refused(bucket: str, key: str) -> StoreRefusedError:
    hint = "check EMPORTER_S3_ACCESS_KEY and EMPORTER_S3_SECRET_KEY"
    return StoreRefusedError(f"the store refuses {bucket}/{key}", hint=hint)


@contextmanager
def _faults(bucket: str, key: str) -> Iterator[None]:
    """The store's exceptions as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissingError(f"{bucket}/{key} is not in the store") from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise _refused(bucket, key) from error
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        if "os error 20" in reason:  # a file stands where the key has a folder: in S3 that key is just not there
            raise ObjectMissingError(f"{bucket}/{key} is not in the store") from error
        if "403 Forbidden" in reason:
            raise _refused(bucket, key) from error
        if "No space left" in reason or "os error 28" in reason or "XMinioStorageFull" in reason:
            raise DiskFullError(f"no room for {bucket}/{key}", hint="free some space in the store") from error
        raise StoreUnavailableError(f"the store did not take {bucket}/{key}: {reason}") from error


class Objects:
    """The buckets of one store."""

    def __init__(self, stores: dict[str, Store], settings: StoreSettings | None = None) -> None:
        self._stores = stores
        self._settings = settings

    @classmethod
    def open(cls, settings: StoreSettings) -> Self:
        """Connects lazily: a store that is down is noticed by the first call, not here."""
        return cls({bucket: _store(settings, bucket) for bucket in BUCKETS}, settings)

    @classmethod
    def in_memory(cls) -> Self:
        """The twin for tests: the same behaviour, nothing on disk."""
        return cls({bucket: MemoryStore() for bucket in BUCKETS})

    async def put(self, bucket: str, key: str, data: bytes) -> str | None:
        """Write one whole object, replacing what was there; its etag."""
        with _faults(bucket, key):
            result = await obstore.put_async(self._stores[bucket], key, data, use_multipart=False)
        return result["e_tag"]

    def put_sync(self, bucket: str, key: str, data: bytes) -> str | None:
        """`put` for worker threads."""
        with _faults(bucket, key):
            return obstore.put(self._stores[bucket], key, data, use_multipart=False)["e_tag"]

    async def create(self, bucket: str, key: str, data: bytes | memoryview) -> bool:
        """Write an object unless one is there; whether it was written. Of several at once exactly one is told True.

        The buffer may be kept as it is by an in-memory store: don't write to it afterwards.
        """
        with _faults(bucket, key):
            try:
                await obstore.put_async(self._stores[bucket], key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    async def put_stream(self, bucket: str, key: str, pieces: AsyncIterator[bytes], part_bytes: int = STREAM_PART_BYTES) -> None:
        """Write one object of any length from pieces of any size, holding a few parts of `part_bytes` in memory.

        The object appears when the last piece is stored. An error of ours that `pieces` raises is raised: nothing appears.
        """
        with _faults(bucket, key):
            await obstore.put_async(
                self._stores[bucket], key, pieces, use_multipart=True, chunk_size=part_bytes, max_concurrency=STREAM_PARTS
            )

    async def create_same(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object that may be there already with just these bytes. Raises ConflictError for other bytes."""
        if await self.create(bucket, key, data):
            return
        if await self.get(bucket, key) != data:
            raise ConflictError(f"{bucket}/{key} exists with other content")

    def create_sync(self, bucket: str, key: str, data: bytes) -> bool:
        """`create` for worker threads."""
        with _faults(bucket, key):
            try:
                obstore.put(self._stores[bucket], key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def create_same_sync(self, bucket: str, key: str, data: bytes) -> None:
        """`create_same` for worker threads."""
        if not self.create_sync(bucket, key, data) and self.get_sync(bucket, key) != data:
            raise ConflictError(f"{bucket}/{key} exists with other content")

    async def get(self, bucket: str, key: str) -> bytes:
        """The whole object. Raises ObjectMissingError."""
        with _faults(bucket, key):
            result = await obstore.get_async(self._stores[bucket], key)
            return bytes(await result.bytes_async())

    def get_sync(self, bucket: str, key: str) -> bytes:
        """`get` for worker threads."""
        with _faults(bucket, key):
            return bytes(obstore.get(self._stores[bucket], key).bytes())

    async def find(self, bucket: str, key: str) -> bytes | None:
        """The whole object, None where there is none."""
        try:
            return await self.get(bucket, key)
        except ObjectMissingError:
            return None

    def find_sync(self, bucket: str, key: str) -> bytes | None:
        """`find` for worker threads."""
        try:
            return self.get_sync(bucket, key)
        except ObjectMissingError:
            return None

    async def get_range(self, bucket: str, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive), fewer where the object ends before."""
        if start == stop:
            return b""
        with _faults(bucket, key):
            return bytes(await obstore.get_range_async(self._stores[bucket], key, start=start, end=stop))

    def get_range_sync(self, bucket: str, key: str, start: int, stop: int) -> bytes:
        """`get_range` for worker threads."""
        if start == stop:
            return b""
        with _faults(bucket, key):
            return bytes(obstore.get_range(self._stores[bucket], key, start=start, end=stop))

    async def get_part(self, bucket: str, key: str, start: int, stop: int) -> Part:
        """Like `get_range`, in one request that also tells of the object, and without a copy.

        Raises ObjectMissingError; StoreUnavailableError also where `start` lies past the end (`head` tells which it was).
        """
        with _faults(bucket, key):
            result = await obstore.get_async(self._stores[bucket], key, options={"range": (start, stop)})
            return Part(_info(result.meta), *result.range, memoryview(await result.bytes_async()))

    async def get_tail(self, bucket: str, key: str, size: int) -> Part:
        """The last `size` bytes, all where the object has fewer, as `get_part` gives them."""
        with _faults(bucket, key):
            result = await obstore.get_async(self._stores[bucket], key, options={"range": {"suffix": size}})
            return Part(_info(result.meta), *result.range, memoryview(await result.bytes_async()))

    async def stream(self, bucket: str, key: str, chunk: int = 8 * 2**20) -> AsyncGenerator[bytes, None]:
        """The object in pieces of about `chunk` bytes."""
        with _faults(bucket, key):
            result = await obstore.get_async(self._stores[bucket], key)
            async for piece in result.stream(min_chunk_size=chunk):
                yield bytes(piece)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Size and etag. Raises ObjectMissingError."""
        with _faults(bucket, key):
            return _info(await obstore.head_async(self._stores[bucket], key))

    async def exists(self, bucket: str, key: str) -> bool:
        try:
            await self.head(bucket, key)
        except ObjectMissingError:
            return False
        return True

    async def listing(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object below `prefix`, in no promised order. A prefix ends in `/` or is empty."""
        with _faults(bucket, prefix):
            async for page in obstore.list(self._stores[bucket], prefix or None, chunk_size=1000):
                for meta in page:
                    yield _info(meta)

    def sizes_sync(self, bucket: str, prefix: str) -> dict[str, int]:
        """Bytes of every object below `prefix` by key, for worker threads."""
        return dict(self.listed_sync(bucket, prefix))

    def listed_sync(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below `prefix`, in no promised order, a page at a time; for worker threads."""
        with _faults(bucket, prefix):
            for page in obstore.list(self._stores[bucket], prefix or None):
                for meta in page:
                    yield meta["path"], meta["size"]

    async def folders(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted, without slashes."""
        with _faults(bucket, prefix):
            listing = await obstore.list_with_delimiter_async(self._stores[bucket], prefix or None)
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in listing["common_prefixes"])

    async def names(self, bucket: str, prefix: str) -> list[str]:
        """Names of the objects directly below `prefix`, sorted."""
        with _faults(bucket, prefix):
            listing = await obstore.list_with_delimiter_async(self._stores[bucket], prefix or None)
        return sorted(str(o["path"]).rsplit("/", 1)[-1] for o in listing["objects"])

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        for start in range(0, len(keys), 1000):
            page = list(keys[start : start + 1000])
            with _faults(bucket, page[0] if page else ""):
                try:
                    await obstore.delete_async(self._stores[bucket], page)
                except FileNotFoundError:
                    await asyncio.gather(*(self._delete_one(bucket, key) for key in page))

    async def _delete_one(self, bucket: str, key: str) -> None:
        try:
            await obstore.delete_async(self._stores[bucket], key)
        except FileNotFoundError:
            return

    async def put_json(self, bucket: str, key: str, value: Message) -> bool:
        """Create `value` as JSON unless the object is there; whether it was written."""
        return await self.create(bucket, key, json_bytes(value))

    async def ready(self) -> bool:
        """Whether the store answers and the buckets are there."""
        try:
            for bucket in self._stores:
                await self.folders(bucket)
        except (StoreUnavailableError, PermanentError):
            return False
        return True

    def local_path(self, bucket: str, key: str) -> Path | None:
        """The file an object is, where the store is a folder; None for S3."""
        root = _folder(self._settings)
        return None if root is None else root / bucket / key

    def kvstore(self, bucket: str, prefix: str) -> dict[str, Any]:
        """The TensorStore kvstore spec of `prefix` (with its slash). S3 keys are taken from AWS_* in the environment."""
        root = _folder(self._settings)
        if root is not None:
            return {"driver": "file", "path": f"{root}/{bucket}/{prefix}"}
        if self._settings is None:
            raise PermanentError("an in-memory store has no kvstore", hint="use a file:/// or s3:// store")
        spec: dict[str, Any] = {
            "driver": "s3",
            "bucket": bucket_name(self._settings, bucket),
            "path": prefix,
            "aws_region": self._settings.s3_region,
            "aws_credentials": {"type": "environment"},
        }
        if self._settings.s3_endpoint:
            spec["endpoint"] = self._settings.s3_endpoint
        return spec

    def store(self, bucket: str) -> Store:
        """The bucket as obstore has it, for other libraries that read through it."""
        return self._stores[bucket]

    def free_bytes(self) -> int | None:
        """Room left on the disk under the store, None where that can't be known."""
        disk = _folder(self._settings) or (self._settings.store_disk if self._settings else None)
        return shutil.disk_usage(disk).free if disk is not None and disk.exists() else None


def json_bytes(value: Message) -> bytes:
    """A contracts value as the JSON that is stored: stable order, so that equal values are equal bytes."""
    body = value.model_dump(mode="json")
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def bucket_name(settings: StoreSettings, bucket: str) -> str:
    """The bucket's name in S3."""
    return settings.store_url.removeprefix("s3://").strip("/") + bucket


def _folder(settings: StoreSettings | None) -> Path | None:
    if settings is None or not settings.store_url.startswith("file://"):
        return None
    return Path(settings.store_url.removeprefix("file://"))


def _store(settings: StoreSettings, bucket: str) -> Store:
    root = _folder(settings)
    if root is not None:
        return LocalStore(root / bucket, mkdir=True)
    given = {
        "endpoint": settings.s3_endpoint,
        "access_key_id": settings.s3_access_key,
        "secret_access_key": settings.s3_secret_key.get_secret_value(),
    }
    return S3Store(
        bucket_name(settings, bucket),
        # What is not given is left out: then AWS, and the machine's own credentials, are meant.
        config={name: value for name, value in given.items() if value},  # type: ignore[arg-type]
        region=settings.s3_region,
        virtual_hosted_style_request=False,
        client_options={
            "allow_http": (settings.s3_endpoint or "").startswith("http://"),
            "timeout": REQUEST_TIMEOUT,
            "connect_timeout": timedelta(seconds=5),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": REQUEST_TIMEOUT},
    )


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"])
