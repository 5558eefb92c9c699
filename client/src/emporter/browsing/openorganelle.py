"""OpenOrganelle's public bucket: its data sets, and the images and labels of one. There is no API: what there is, is listed."""

from __future__ import annotations

import html
import re
from urllib.parse import quote

from emporter.archive_settings import ArchiveSettings
from emporter.browsing.things import Request, Thing
from emporter.errors import MistakeError, UnreachableError
from emporter.remote import NotThereError, Web

MOST_PAGES = 100
CONTAINERS = (".zarr", ".n5")
"""The better first: what lies in both is taken from Zarr, as an ingest does."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_PREFIX = re.compile(r"<CommonPrefixes>\s*<Prefix>([^<]*)</Prefix>")
_NEXT = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")


def datasets(settings: ArchiveSettings | None = None) -> Thing:
    """Every folder of the bucket: each is a data set."""
    with Web() as web:
        names = _Bucket(web, settings or ArchiveSettings()).folders("")
    return Thing(kind="archive", id="openorganelle", children=tuple(Thing(kind="data set", id=name, name=name) for name in names))


def dataset(name: str, settings: ArchiveSettings | None = None) -> Thing:
    """The arrays below `em` and the groups of labels of a data set. Raises MistakeError, NotThereError, UnreachableError."""
    if not _NAME.match(name):
        raise MistakeError(f"{name[:80]!r} is no data set", hint="emporter browse openorganelle lists them")
    with Web() as web:
        bucket = _Bucket(web, settings or ArchiveSettings())
        inside = bucket.folders(f"{name}/")
        containers = [folder for ending in CONTAINERS for folder in inside if folder.endswith(ending)]
        if not containers:
            raise NotThereError(f"openorganelle has no data set {name}", hint="emporter browse openorganelle lists them")
        arrays: dict[str, Thing] = {}
        for container in containers:
            for array in _arrays(bucket, f"{name}/{container}/"):
                arrays.setdefault(array, _array(name, container, array))
    return Thing(kind="data set", id=name, name=name, children=tuple(arrays.values()))


def _arrays(bucket: _Bucket, container: str) -> list[str]:
    inside = bucket.folders(container)
    groups = [f"{recon}/em" for recon in inside if re.match(r"recon-\d+\Z", recon)] + (["em"] if "em" in inside else [])
    return [f"{group}/{array}" for group in groups for array in bucket.folders(f"{container}{group}/")]


def _array(name: str, container: str, array: str) -> Thing:
    return Thing(
        kind="array",
        id=array,
        name=array.rpartition("/")[2],
        details={"container": container},
        request=Request(source="openorganelle", source_id=name, parameters={"array": array}),
    )


class _Bucket:
    """Folders of a public bucket by ListObjectsV2."""

    def __init__(self, web: Web, settings: ArchiveSettings) -> None:
        self._web = web
        bucket, endpoint = settings.openorganelle_bucket, settings.openorganelle_endpoint.rstrip("/")
        at_aws = f"https://{bucket}.s3.{settings.openorganelle_region}.amazonaws.com"
        self._base = f"{endpoint}/{bucket}" if endpoint else at_aws

    def folders(self, prefix: str) -> list[str]:
        """Names, without the prefix and the slash at their end."""
        found: list[str] = []
        token = ""
        for _ in range(MOST_PAGES):
            more = f"&continuation-token={quote(token, '')}" if token else ""
            url = f"{self._base}/?list-type=2&delimiter=%2F&prefix={quote(prefix, '')}{more}"
            body = self._web.document(url)
            if body is None:
                raise UnreachableError(f"{self._base} may not be listed", hint="EMPORTER_OPENORGANELLE_BUCKET names another")
            page = body.decode("utf-8", "replace")
            found += [html.unescape(name)[len(prefix) :].rstrip("/") for name in _PREFIX.findall(page)]
            following = _NEXT.search(page)
            if following is None:
                break
            token = html.unescape(following[1])
        return found
