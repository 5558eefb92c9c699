"""A training set as a file: drawn once, replayed anywhere, made again elsewhere.

What a set holds is `emporter_contracts.training.TrainingSet`. It names its volumes by revision and digest, so a replay reads the
very voxels that were drawn, or says which volume differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from emporter import paths
from emporter.errors import ClientError, MistakeError, RefusedByServiceError
from emporter.wire import Wire
from emporter_contracts.commands import IngestRequest
from emporter_contracts.ids import VolumeRef, canonical
from emporter_contracts.training import (
    SAMPLER_VERSION,
    Pairing,
    Part,
    SamplePlaces,
    SampleRequest,
    TrainingBox,
    TrainingSet,
    TrainingVolume,
)

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter.volume import AsyncVolume

AUTO = "auto"
"""Labels: those that say they are of the image, where there are only one."""
NOT_THERE = frozenset({"volume_unknown", "volume_removed"})

Info = Mapping[str, Any]


class ChangedVolumeError(ClientError):
    """A volume of a training set is not what the set was drawn from."""

    code = "training_set_changed"


async def draw(
    client: AsyncClient, images: Sequence[str], wanted: SampleRequest, labels: Sequence[str | None], validation: int
) -> TrainingSet:
    """Boxes of each image as `wanted` says; with a split, `wanted.n` to train and `validation` to validate.

    `labels`: for each image a volume, AUTO, or None. Raises RefusedByServiceError, MistakeError.
    """
    drawing = _Drawing(client, wanted)
    for image, named in zip(images, labels, strict=True):
        await drawing.take(await client.volume(image), named, validation)
    return drawing.made()


class _Drawing:
    """A training set as it grows, image by image."""

    def __init__(self, client: AsyncClient, wanted: SampleRequest) -> None:
        self._client = client
        self._wanted = wanted
        self._volumes: list[TrainingVolume] = []
        self._pairs: list[Pairing] = []
        self._boxes: list[TrainingBox] = []

    async def take(self, image: AsyncVolume, labels: str | None, validation: int) -> None:
        named = _only_labels(image) if labels == AUTO else labels
        split, asked = self._wanted.split, self._wanted.model_copy(update={"labels": named})
        parts: dict[Part, int] = {"train": asked.n}
        if split is not None and validation:
            parts["validation"] = validation
        for part, n in parts.items():
            chosen = split.model_copy(update={"part": part}) if split is not None else None
            places = await self._places(image, asked.model_copy(update={"n": n, "split": chosen}))
            if part == "train":
                self._pairs.append(await self._pair(image, places))
            self._boxes += [TrainingBox(pair=len(self._pairs) - 1, origin=origin, part=part) for origin in places.origins]

    async def _places(self, image: AsyncVolume, asked: SampleRequest) -> SamplePlaces:
        rest = asked.model_dump(exclude={"n", "shape", "level", "format"})
        return await image.level(asked.level).places(asked.n, asked.shape, **rest)

    async def _pair(self, image: AsyncVolume, places: SamplePlaces) -> Pairing:
        pair = Pairing(image=await self._position(image), level=places.level, voxel_size_nm=places.voxel_size_nm)
        if places.labels is None:
            return pair
        position = await self._position(await self._client.volume(places.labels.ref))
        found = {"labels": position, "labels_level": places.labels.level, "labels_offset": places.labels.offset}
        return pair.model_copy(update=found)

    async def _position(self, volume: AsyncVolume) -> int:
        for position, known in enumerate(self._volumes):
            if known.ref == volume.ref:
                return position
        self._volumes.append(_described(volume.info, await _request_of(volume)))
        return len(self._volumes) - 1

    def made(self) -> TrainingSet:
        asked = self._wanted
        if len(self._pairs) == 1 and self._pairs[0].labels is not None:
            asked = asked.model_copy(update={"labels": str(self._volumes[self._pairs[0].labels].ref)})
        return TrainingSet(
            created_at=datetime.now(UTC),
            software=f"emporter {version('emporter')}",
            shape=self._wanted.shape,
            sampler_version=SAMPLER_VERSION,
            asked=asked,
            volumes=tuple(self._volumes),
            pairs=tuple(self._pairs),
            boxes=tuple(self._boxes),
        )


def _only_labels(image: AsyncVolume) -> str:
    found = image.info["labels"]
    if len(found) != 1:
        said = ", ".join(found) if found else "none"
        raise MistakeError(f"{image.ref} has {len(found)} label volumes ({said})", hint="name one with --labels")
    name: str = found[0]
    return name


async def _request_of(volume: AsyncVolume) -> IngestRequest | None:
    """The ingest that made a volume; None where nobody knows, as of volumes that were registered in place."""
    try:
        return IngestRequest.model_validate((await volume.provenance())["request"])
    except (RefusedByServiceError, KeyError, ValidationError):
        return None


def _described(info: Info, request: IngestRequest | None) -> TrainingVolume:
    told = {name: info[name] for name in TrainingVolume.model_fields if name in info}
    return TrainingVolume.model_validate({**told, "request": request})


def load(path: Path | str) -> TrainingSet:
    """The set in a file. Raises MistakeError."""
    try:
        return TrainingSet.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise MistakeError(f"{path}: {error.strerror}", hint="emporter sample VOLUME … --manifest FILE writes one") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"][:3]))
        raise MistakeError(
            f"{path} is no training set: {where}: {first['msg']}", hint="take the file as it was written"
        ) from None


def save(path: Path, drawn: TrainingSet) -> None:
    """As JSON; what was there is replaced in one step."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(drawn.model_dump_json(indent=1, exclude_defaults=False) + "\n")
    beside.replace(path)


def found_on(wire: Wire, drawn: TrainingSet) -> list[Info]:
    """What a block-server tells of each volume of a set. Raises ChangedVolumeError naming one that is not what was drawn from."""

    def told(ref: VolumeRef) -> Info | None:
        try:
            return wire.document(paths.volume(ref))
        except RefusedByServiceError as error:
            if error.code in NOT_THERE:
                return None
            raise

    return [_same(drawn, n, [told(ref) for ref in _candidates(v)]) for n, v in enumerate(drawn.volumes)]


async def check(client: AsyncClient, drawn: TrainingSet) -> list[VolumeRef]:
    """Where each volume of a set is here. Raises ChangedVolumeError naming one that is not what was drawn from."""
    return [VolumeRef.parse((await _found(client, drawn, n))["ref"]) for n in range(len(drawn.volumes))]


async def rebuild(client: AsyncClient, drawn: TrainingSet, told: Callable[[str], None] = lambda _: None) -> list[VolumeRef]:
    """Ingest again what is not here, as it was asked for the first time, and compare.

    Raises MistakeError where nobody knows how a volume was made, ChangedVolumeError where it comes out otherwise, and what an
    ingest may raise.
    """
    done: set[str] = set()
    for n, volume in enumerate(drawn.volumes):
        try:
            ref = (await _found(client, drawn, n))["ref"]
        except ChangedVolumeError:
            request = _again(volume)
            if canonical(request) not in done:
                told(f"{volume.ref}: ingesting {request.source} {request.source_id}")
                await _ingest(client, volume, request)
                done.add(canonical(request))
            ref = (await _found(client, drawn, n))["ref"]
        told(f"{volume.ref}: the same voxels are {ref} here")
    return await check(client, drawn)


async def _found(client: AsyncClient, drawn: TrainingSet, n: int) -> Info:
    found: list[Info | None] = []
    for ref in _candidates(drawn.volumes[n]):
        try:
            found.append((await client.volume(str(ref))).info)
        except RefusedByServiceError as error:
            if error.code not in NOT_THERE:
                raise
            found.append(None)
    return _same(drawn, n, found)


def _candidates(volume: TrainingVolume) -> tuple[VolumeRef, VolumeRef]:
    """On another machine the same volume may have another revision."""
    return volume.ref, VolumeRef(volume.volume)


def _same(drawn: TrainingSet, n: int, found: Sequence[Info | None]) -> Info:
    """The first of what was found that holds the voxels volume `n` was drawn from.

    Equal digests are equal shards. Where only full resolution was used equal voxels will do: another release may pack them
    otherwise.
    """
    volume, there = drawn.volumes[n], [info for info in found if info is not None]
    used = {pair.level for pair in drawn.pairs if pair.image == n} | {p.labels_level for p in drawn.pairs if p.labels == n}
    for info in there:
        if info["digest"] == volume.digest:
            return info
        if used == {0} and volume.voxels_sha256 is not None and info["voxels_sha256"] == volume.voxels_sha256:
            return info
    hint = "emporter sample --rebuild FILE ingests it as it was"
    if not there:
        raise ChangedVolumeError(f"{volume.ref} is not here", hint=hint)
    raise ChangedVolumeError(
        f"{volume.ref} is not what the set was drawn from: digest {there[0]['digest'][:12]}, not {volume.digest[:12]}", hint=hint
    )


def _again(volume: TrainingVolume) -> IngestRequest:
    if volume.request is None:
        raise MistakeError(
            f"{volume.ref}: the set does not say how it was made ({volume.source} {volume.source_id})",
            hint="bring it in yourself",
        )
    return volume.request.model_copy(update={"force": "no", "refresh": False})


async def _ingest(client: AsyncClient, volume: TrainingVolume, request: IngestRequest) -> None:
    try:
        state = await client.wait((await client.ingest(request)).job)
    except RefusedByServiceError as error:
        if request.source == "inbox":
            files = ", ".join(volume.files) or "its files"
            raise MistakeError(
                f"{volume.ref} was uploaded: {error.message}", hint=f"upload {files} here first: emporter ingest FILES"
            ) from error
        raise
    if state.state != "complete":
        said = f": {state.error.message}" if state.error else ""
        raise ClientError(f"{volume.ref}: ingesting it again ended {state.state}{said}", hint=f"emporter status {state.job}")
