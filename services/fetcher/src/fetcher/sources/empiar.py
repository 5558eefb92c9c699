"""Source `empiar`: raw electron microscopy images of EMPIAR, one volume for each stack of slices in an image set.

source_id is `EMPIAR-11759` or `11759`; `parameters: {"imageset": n}` takes one image set, `{"files": "*.mrc"}` some of the files.
The API names no file, so folders are listed, over HTTPS or else FTP; what is no image is passed over and told. Where the API and
the files differ the files count. Slices are stacked as they are: an alignment, where there is one, lies in some program's
own project.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic import JsonValue

from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import MAX_VOLUMES, Caveat, Licence, PlannedObject
from emporter_readers.discover import discover
from emporter_readers.protocol import Hints
from emporter_runtime.errors import TransientError
from fetcher.errors import ArchiveMisbehavesError, NotInArchiveError, TooManyVolumesError
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.empiar_api import Entry, ImageSet, entry_of
from fetcher.sources.empiar_files import Group, grouped, of_format, reason_to_skip
from fetcher.sources.over_files import FileObjects, url_of
from fetcher.sources.protocol import Claims, Context, Listing, Part
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.documents import json_object
from fetcher.transports.http import HttpLimits
from fetcher.transports.listing import Entry as Name
from fetcher.transports.listing import walk

LICENCE = Licence(spdx="CC0-1.0", url="https://creativecommons.org/publicdomain/zero/1.0/", known=True)
"""Of every entry: EMPIAR's terms of deposition."""
REPOSITORY = (
    "A. Iudin, P. K. Korir, S. Somasundharam et al.: EMPIAR: the Electron Microscopy Public Image Archive. "
    "Nucleic Acids Research 51(D1), 2023. doi:10.1093/nar/gkac1062"
)
TOLD_SKIPPED = 1000
"""Names of skipped files kept in the record."""

_ID = re.compile(r"(?:EMPIAR-)?([1-9]\d{4,6})\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Files that make one volume, or, where they are volumes themselves, one by one."""

    group: Group
    image_set: ImageSet | None


@dataclass(slots=True)
class _Found:
    """What lies in the folders of an entry."""

    stacks: list[_Stack] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    caveats: list[Caveat] = field(default_factory=list)


class EmpiarSource(FileObjects):
    """Asks the API, lists folders, fetches files."""

    name = "empiar"

    def __init__(self, settings: FetcherSettings, gate: Gate) -> None:
        self._api = settings.empiar_base_url.rstrip("/")
        self._files = settings.empiar_files_url.rstrip("/")
        anywhere = HostPolicy(("*",), setting="EMPORTER_EMPIAR_BASE_URL", schemes=("http", "https", "ftp"))
        urls = filter(None, (self._api, self._files, settings.empiar_ftp_url))
        hosts = replace(
            anywhere, allowed=tuple(anywhere.checked(url).host for url in urls), allow_private=settings.url_allow_private
        )
        limits = HttpLimits(settings.connections_per_host, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate, [(self._files, settings.empiar_ftp_url)])

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        match = _ID.match(request.source_id)
        if match is None:
            raise RefusedError(f"{request.source_id[:100]!r} is no entry of EMPIAR", hint="write EMPIAR-11759 or 11759")
        number = match[1]
        found = _Found()
        entry = await self._entry(number, found)
        await self._look(number, entry, request, found)
        if not found.stacks:
            raise NotInArchiveError(
                f"EMPIAR-{number}: none of its files is an image that is read here", hint=f"it has {_some(found.skipped)}"
            )
        paths = [path for stack in found.stacks for path in stack.group.paths]
        objects = await self.planned_all([(path, url_of(f"{self._files}/{number}", path)) for path in paths], context)
        parts = await self._parts(found, objects)
        return Listing(
            objects=objects,
            download_url=f"{self._files}/{number}/",
            parts=tuple(parts),
            description=entry.title,
            modality=entry.experiment or "unknown",
            licence=LICENCE,
            citation=(REPOSITORY, entry.citation),
            caveats=tuple(found.caveats),
            archive=_archive(entry, found),
        )

    async def _entry(self, number: str, found: _Found) -> Entry:
        """What the API says; only the accession, with a caveat, where it is down: the files may be there all the same."""
        accession = f"EMPIAR-{number}"
        try:
            return entry_of(accession, await json_object(self.client, f"{self._api}/api/entry/{accession}/"))
        except (TransientError, ArchiveMisbehavesError) as error:
            found.caveats.append(Caveat(code="api_down", evidence=error.message))
            return Entry(accession)

    async def _look(self, number: str, entry: Entry, request: IngestRequest, found: _Found) -> None:
        pattern = request.parameters.get("files")
        for image_set in _chosen(entry, request):
            directory = image_set.directory if image_set else ""
            tree = await walk(partial(self._names, number, directory), reason_to_skip)
            paths = [f"{directory}/{path}" if directory else path for path in tree.files]
            found.skipped |= {f"{directory}/{path}" if directory else path: why for path, why in tree.skipped.items()}
            paths = _wanted(paths, image_set, pattern if isinstance(pattern, str) else None, found)
            known = {path for stack in found.stacks for path in stack.group.paths}
            found.stacks += [_Stack(group, image_set) for group in grouped(path for path in paths if path not in known)]

    async def _names(self, number: str, directory: str, at: str) -> list[Name]:
        below = "/".join(filter(None, (number, directory, at)))
        if ".." in below.split("/"):
            raise ArchiveMisbehavesError(f"EMPIAR-{number}: an image set in {directory!r}, which leads out of the entry")
        return await self.entries(url_of(self._files, below))

    async def _parts(self, found: _Found, objects: Sequence[PlannedObject]) -> list[Part]:
        """A part for each volume: a stack of slices, or each file of one that holds stacks itself."""
        parts: list[Part] = []
        place = 0
        sets = [stack.image_set for stack in found.stacks]
        for stack in found.stacks:
            files = range(place, place + len(stack.group.paths))
            place = files.stop
            if len(files) > 1 and await self._is_volume(objects[files.start]):
                parts += [_part(stack, objects, [n]) for n in files]
            else:
                parts.append(_part(stack, objects, list(files), whole=sets.count(stack.image_set) == 1))
        if len(parts) > MAX_VOLUMES:
            raise TooManyVolumesError(
                f"the entry holds {len(parts)} volumes, one job may hold {MAX_VOLUMES}",
                hint='choose with parameters: {"imageset": 0} or {"files": "*_01.mrc"}',
            )
        found.caveats += _caveats(found, parts)
        if len(parts) == 1:
            return [replace(parts[0], name="")]
        return [replace(part, name=f"{part.name}-{n}") for n, part in enumerate(parts)]

    async def _is_volume(self, planned: PlannedObject) -> bool:
        """Whether one file of several is a stack itself: its header is asked."""
        source = self.open(planned)
        thread = ThreadPoolExecutor(1, thread_name_prefix="headers")
        try:
            volumes = await asyncio.get_running_loop().run_in_executor(thread, discover, [source], Hints(rgb="luma"))
        finally:
            thread.shutdown(wait=False)
        return any(volume.shape[0] > 1 for volume in volumes)


def _chosen(entry: Entry, request: IngestRequest) -> Sequence[ImageSet | None]:
    """The image sets asked for; None stands for the entry's whole folder."""
    wanted = request.parameters.get("imageset")
    if wanted is None:
        return entry.sets or (None,)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not 0 <= wanted < len(entry.sets):
        names = ", ".join(f"{n}: {one.name[:60]}" for n, one in enumerate(entry.sets)) or "none, its API is down"
        raise RefusedError(f"{entry.accession} has no image set {wanted!r}"[:300], hint=f"one of {names}")
    return (entry.sets[wanted],)


def _wanted(paths: list[str], image_set: ImageSet | None, pattern: str | None, found: _Found) -> list[str]:
    """Of the images in a folder those asked for, and of the format the entry names where it has any."""
    if pattern is not None:
        chosen = [
            path for path in paths if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path.split("/")[-1], pattern)
        ]
        found.skipped |= dict.fromkeys((path for path in paths if path not in set(chosen)), "not asked for")
        paths = chosen
    if image_set is None or not image_set.suffixes:
        return paths
    kept, others = of_format(paths, image_set.suffixes)
    if not kept and others:
        evidence = f"image set {image_set.name!r}: {image_set.format} by the API, its files are others, such as {others[0]}"
        found.caveats.append(Caveat(code="archive_disagrees", evidence=evidence))
        return others
    found.skipped |= dict.fromkeys(others, f"not of the format the entry names ({image_set.format})")
    return kept


def _part(stack: _Stack, objects: Sequence[PlannedObject], files: list[int], *, whole: bool = False) -> Part:
    """`whole`: these are all files of the image set, so that what it says of their number can be compared."""
    image_set = stack.image_set
    name = stack.group.name if len(files) > 1 else Group((objects[files[0]].path,)).name
    return Part(
        objects=tuple(files),
        name=name,
        voxel_size=image_set.voxel_size if image_set else Part(()).voxel_size,
        claims=image_set.claims(whole=whole and len(files) > 1) if image_set else Claims(),
    )


def _caveats(found: _Found, parts: Sequence[Part]) -> list[Caveat]:
    stacked = [part for part in parts if len(part.objects) > 1]
    if not stacked:
        return []
    slices = max(len(part.objects) for part in stacked)
    project = next((name for name in found.skipped if "trakem2" in name.lower() or name.endswith(".xml.gz")), None)
    kept = f"; an alignment may lie in {project}, which is not read" if project else ""
    return [Caveat(code="unaligned", evidence=f"{slices} files of one slice each are stacked as they are{kept}")]


def _archive(entry: Entry, found: _Found) -> dict[str, JsonValue]:
    skipped: dict[str, JsonValue] = dict(list(found.skipped.items())[:TOLD_SKIPPED])
    return {"entry": dict(entry.said) if entry.said else None, "accession": entry.accession, "skipped": skipped}


def _some(skipped: dict[str, str]) -> str:
    return ", ".join(list(skipped)[:5]) or "no file at all"
