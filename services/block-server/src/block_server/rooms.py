"""What every route stands on, and how a request's `{v}` becomes a revision that can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from starlette.requests import Request

from block_server.access import grant_of
from block_server.admission import Admission
from block_server.arrays import Level, OpenVolume
from block_server.errors import DamagedVolumeError, NotPinnedError, NotStoredHereError
from block_server.policing import AccessRules
from block_server.sampling_occupancy import Occupancies
from block_server.settings import BlockServerSettings
from block_server.shards import Shards
from block_server.volumes import Volumes
from emporter_contracts.ids import VolumeRef
from emporter_runtime.objects import Objects
from emporter_runtime.policy.judging import Policy

REVISION = "emporter_revision"
"""Where the middleware that writes headers finds the revision a request was resolved to."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """One store and the memory its readers share. `decoding` counts voxels, `passing` stored bytes."""

    settings: BlockServerSettings
    objects: Objects
    volumes: Volumes
    decoding: Admission
    passing: Admission
    shards: Shards
    occupancies: Occupancies
    rules: AccessRules

    @classmethod
    def open(cls, settings: BlockServerSettings) -> Self:
        """Connects to nothing yet."""
        objects = Objects.open(settings)
        wait = settings.blocks_wait_seconds
        volumes, decoding = Volumes(objects, settings), Admission(settings.blocks_in_flight_bytes, wait)
        return cls(
            settings=settings,
            objects=objects,
            volumes=volumes,
            decoding=decoding,
            passing=Admission(settings.blocks_passthrough_bytes, wait),
            shards=Shards(objects),
            occupancies=Occupancies(objects, volumes, decoding),
            rules=AccessRules(Policy.read(settings.policy), settings.blocks_fresh_seconds),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """`asked` is what the request named, pinned or not; `volume` the one revision it is answered from."""

    asked: VolumeRef
    volume: OpenVolume


def rooms_of(request: Request) -> Rooms:
    rooms: Rooms = request.app.state.rooms
    return rooms


async def find(request: Request) -> Found:
    """The revision that the `{v}` of a request means, resolved once: nothing later in the request asks again.

    Raises InvalidValueError, ForbiddenError, UnknownVolumeError, RemovedVolumeError, PolicyRefusedError, DamagedVolumeError,
    StoreUnavailableError.
    """
    found = await find_named(request, request.path_params["v"])
    request.scope[REVISION] = found.volume.ref.revision
    return found


async def find_named(request: Request, name: str) -> Found:
    """`find`, for a volume that is named in the body of a request."""
    asked = VolumeRef.parse(name)
    volumes, grant = rooms_of(request).volumes, grant_of(request)
    grant.check(asked)  # first: whoever may not read a volume is not told whether it is there
    pinned = await volumes.pinned(asked)
    grant.check(pinned)
    found = Found(asked, await volumes.opened(pinned))
    rooms_of(request).rules.check(request, pinned, found.volume.record)
    return found


async def find_pinned(request: Request, path: Callable[[VolumeRef], str]) -> OpenVolume:
    """`find`, for a route of many requests, which must all name one revision; `path` is where that is, below the base.

    Raises NotPinnedError.
    """
    found = await find(request)
    if found.asked.revision is None:
        raise NotPinnedError(
            f"it is read with many requests, so its revision must be named, and {found.asked} names none",
            pinned=f"{base_url(request)}/{path(found.volume.ref)}",
        )
    return found.volume


async def find_stored(request: Request, path: Callable[[VolumeRef], str]) -> OpenVolume:
    """`find_pinned`, for a route that gives what is stored here as it is stored. Raises NotStoredHereError."""
    volume = await find_pinned(request, path)
    if volume.watch is not None:
        raise NotStoredHereError(volume.ref, volume.record.metadata.provenance.download_url)
    return volume


async def removed_or_damaged(rooms: Rooms, volume: OpenVolume, error: DamagedVolumeError) -> DamagedVolumeError:
    """`error`, unless the revision was removed while it was being read: then raises RemovedVolumeError."""
    await rooms.volumes.look_again(volume.ref)
    return error


def base_url(request: Request) -> str:
    """Public base of this service, without a slash at the end; where a signed link was followed, with its prefix."""
    told = rooms_of(request).settings.blocks_url.rstrip("/")
    return told + request.scope.get("root_path", "") if told else str(request.base_url).rstrip("/")


def voxel_headers(found: Found, level: Level) -> dict[str, str]:
    """What is known of the voxels of one level."""
    size = ",".join("null" if nm is None else f"{nm:.12g}" for nm in found.volume.voxel_size_nm(level))
    headers = {"x-emporter-dtype": level.dtype.name, "x-emporter-voxel-size-nm": size}
    caveats = ",".join(dict.fromkeys(caveat.code for caveat in found.volume.record.caveats))
    return headers | ({"x-emporter-caveats": caveats} if caveats else {})
