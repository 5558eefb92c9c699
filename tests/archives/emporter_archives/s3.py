"""A public bucket: ListObjectsV2 with prefix, delimiter and pages, objects by ranges; no credentials, path style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from emporter_archives.faults import Fault
from emporter_archives.server import File, FileServer


@dataclass(frozen=True, slots=True)
class Listing:
    """One listing that was asked for."""

    prefix: str
    delimiter: str
    keys: int


class S3Server(FileServer):
    """Use it as a context manager; `page` is how many keys a listing gives at once."""

    def __init__(self, bucket: str = "janelia-cosem-datasets", page: int = 1000) -> None:
        super().__init__()
        self.bucket = bucket
        self.page = page
        self.listings: list[Listing] = []

    def put_all(self, folder: str, objects: Mapping[str, bytes]) -> None:
        """Objects below a folder of the bucket."""
        for name, body in objects.items():
            self.put(f"/{self.bucket}/{folder}/{name}", body)

    async def _answer(self, answer: Any) -> None:
        parts = urlsplit(answer.path)
        asked = parse_qs(parts.query, keep_blank_values=True)
        if parts.path.rstrip("/") == f"/{self.bucket}" and asked.get("list-type") == ["2"]:
            fault: Fault | None = self._always.get("listing")
            body = self._listed({name: values[0] for name, values in asked.items()})
            await answer.file(File(body, None, None, headers={"Content-Type": "application/xml"}), fault)
            return
        await super()._answer(answer)

    def _listed(self, asked: Mapping[str, str]) -> bytes:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token", "")
        size = min(int(asked.get("max-keys", self.page)), self.page)
        root = f"/{self.bucket}/"
        keys = sorted(unquote(path)[len(root) :] for path in self.files if path.startswith(root))
        entries: dict[str, str | None] = {}
        for key in keys:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                at = rest.find(delimiter) if delimiter else -1
                entries[prefix + rest[: at + 1] if at >= 0 else key] = None if at >= 0 else key
        later = [name for name in entries if name > after]
        given, more = later[:size], len(later) > size
        self.listings.append(Listing(prefix, delimiter, len(given)))
        lines = [f"<Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(given)}</KeyCount>"]
        lines.append(f"<MaxKeys>{size}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>")
        if more:
            lines.append(f"<NextContinuationToken>{escape(given[-1])}</NextContinuationToken>")
        lines += [self._entry(name, entries[name]) for name in given]
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{space}">{"".join(lines)}</ListBucketResult>'.encode()

    def _entry(self, name: str, key: str | None) -> str:
        if key is None:
            return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        file = self.files[f"/{self.bucket}/{key}"]
        said = f"<Key>{escape(key)}</Key><LastModified>2018-06-11T22:27:00.000Z</LastModified>"
        return f"<Contents>{said}<ETag>{escape(file.etag or '')}</ETag><Size>{len(file.content)}</Size></Contents>"
