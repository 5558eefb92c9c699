"""Public buckets of S3, without credentials: listings by s3fs, bytes by obstore.

Only for endpoints an operator configured: the libraries resolve names and connect by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import obstore
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import S3Store

from fetcher.errors import CHANGED_HINT, ArchiveUnreachableError, ForbiddenError, NotInArchiveError, SourceChangedError
from fetcher.transports.trying import tries

PIECE_BYTES = 8 * 2**20
KEYS_PER_PREFIX = 10
"""Keys wanted below a prefix from which on it is listed."""
MOST_DEPTH = 8


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket and where it is asked for. `endpoint` empty: AWS in `region`."""

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    connections: int = 32
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class S3Object:
    """One line of a listing."""

    key: str
    size: int
    etag: str | None


class Bucket:
    """One public bucket. Its coroutines belong to the event loop it is used in."""

    def __init__(self, place: S3Place) -> None:
        self.place = place
        self._listing: s3fs.S3FileSystem | None = None
        self._turns = asyncio.Semaphore(place.connections)
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=place.connect_seconds),
            "read_timeout": timedelta(seconds=place.stall_seconds),
            "timeout": "1 hour",
            "allow_http": place.endpoint.startswith("http://"),
        }
        endpoint = {"endpoint": place.endpoint} if place.endpoint else {}
        self._store = S3Store(
            place.bucket,
            region=place.region,
            skip_signature=True,
            virtual_hosted_style_request=not place.endpoint,
            client_options=options,  # type: ignore[arg-type]
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
            **endpoint,  # type: ignore[arg-type]
        )

    async def listed(self, prefix: str) -> list[S3Object]:
        """Every object whose key begins with `prefix`, however deep."""
        folder, _, stem = prefix.rpartition("/")
        path = f"{self.place.bucket}/{folder}" if folder else self.place.bucket
        async for attempt in tries():
            with attempt, _faults(f"s3://{self.place.bucket}/{prefix}"):
                async with self._turns:
                    found = await (await self._s3fs())._find(path, prefix=stem, detail=True)  # noqa: SLF001  # its async API
        return [
            S3Object(name.partition("/")[2], int(info["size"]), info.get("ETag"))
            for name, info in found.items()
            if info["type"] == "file" and name.partition("/")[2].startswith(prefix)
        ]

    async def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below the folder `prefix`, without slashes."""
        path = f"{self.place.bucket}/{prefix.rstrip('/')}"
        async for attempt in tries():
            with attempt, _faults(f"s3://{path}"):
                try:
                    found = await (await self._s3fs())._ls(path, detail=True, refresh=True)  # noqa: SLF001
                except FileNotFoundError:
                    return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")

    async def look(self, key: str) -> S3Object | None:
        """One object, None where there is none."""
        async for attempt in tries():
            with attempt:
                with _faults(f"s3://{self.place.bucket}/{key}"):
                    async with self._turns:
                        try:
                            found = await obstore.head_async(self._store, key)
                        except FileNotFoundError:
                            return None
                return S3Object(key, found["size"], found["e_tag"])
        raise AssertionError("stamina ends by returning or raising")

    async def whole(self, key: str) -> bytes | None:
        """All of a small object, None where there is none."""
        async for attempt in tries():
            with attempt, _faults(f"s3://{self.place.bucket}/{key}"):
                try:
                    return bytes(await (await obstore.get_async(self._store, key)).bytes_async())
                except FileNotFoundError:
                    return None
        raise AssertionError("stamina ends by returning or raising")

    async def read(self, there: S3Object, start: int, stop: int) -> bytes:
        """Exactly these bytes of that version. Raises SourceChangedError, NotInArchiveError, ArchiveUnreachableError."""
        url = f"s3://{self.place.bucket}/{there.key}"
        if start == stop:
            return b""
        options: dict[str, Any] = {"range": (start, stop), **({"if_match": there.etag} if there.etag else {})}
        async for attempt in tries():
            with attempt:
                with _faults(url):
                    async with self._turns:
                        answer = await obstore.get_async(self._store, there.key, options=options)  # type: ignore[arg-type]
                        data = bytes(await answer.bytes_async())
                said = answer.meta
                if said["size"] != there.size or (there.etag and said["e_tag"] and said["e_tag"] != there.etag):
                    raise SourceChangedError(f"{url} changed since it was planned", hint=CHANGED_HINT)
                if len(data) != stop - start:
                    raise ArchiveUnreachableError(f"{url} ended at byte {start + len(data)} of {stop}")
                return data
        raise AssertionError("stamina ends by returning or raising")

    async def pieces(self, there: S3Object, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The same in order, a piece at a time."""
        for begin in range(start, stop, PIECE_BYTES):
            yield await self.read(there, begin, min(begin + PIECE_BYTES, stop))

    async def close(self) -> None:
        if self._listing is not None and self._listing._s3 is not None:  # noqa: SLF001  # s3fs has no public close
            await self._listing._s3.close()  # noqa: SLF001
            self._listing = None

    async def _s3fs(self) -> s3fs.S3FileSystem:
        if self._listing is None:
            self._listing = s3fs.S3FileSystem(
                anon=True,
                endpoint_url=self.place.endpoint or None,
                asynchronous=True,
                loop=asyncio.get_running_loop(),
                skip_instance_cache=True,
                use_listings_cache=False,
                client_kwargs={"region_name": self.place.region},
                config_kwargs={
                    "s3": {"addressing_style": "path" if self.place.endpoint else "virtual"},
                    "connect_timeout": self.place.connect_seconds,
                    "read_timeout": self.place.stall_seconds,
                    "retries": {"max_attempts": 1},
                },
            )
        await self._listing.set_session()
        return self._listing


def listing_prefixes(keys: Sequence[str], folder: str) -> list[str] | None:
    """Prefixes of `folder` whose listings hold all of `keys` and not many more; None where single looks cost less.

    Keys of chunks are cut at their separators, as deep as a prefix still stands for ten keys: above lie those of other
    regions, which may be millions, and below a listing is no cheaper than a look.
    """
    best = None
    for depth in range(1, MOST_DEPTH):
        prefixes = list(dict.fromkeys(_cut(folder, key, depth) for key in keys))
        if len(prefixes) * KEYS_PER_PREFIX > len(keys):
            break
        best = prefixes
    return best


def _cut(folder: str, key: str, depth: int) -> str:
    """`key` down to its `depth`-th separator below `folder`."""
    at = len(folder)
    for _ in range(depth):
        ends = [place for mark in "/." if (place := key.find(mark, at)) >= 0]
        at = min(ends) + 1 if ends else len(key)
    return key[:at]


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Exceptions of both libraries as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotInArchiveError(f"{url} does not exist", hint="check the name, or browse the archive") from error
    except PreconditionError as error:
        raise SourceChangedError(f"{url} changed since it was planned", hint=CHANGED_HINT) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise ForbiddenError(f"{url} may not be read", hint="is the bucket public?") from error
    except (BaseError, BotoCoreError, ClientError, OSError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ArchiveUnreachableError(f"{url}: {reason}") from error
