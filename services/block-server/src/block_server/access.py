"""What a request may read, for those who answer it. The gate itself is emporter_runtime.access_gate.

Every name of a volume that comes with a request goes through `rooms.find_named`, which asks the grant; what lists volumes asks
it here.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from block_server.volumes import Page, Volumes
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import EVERYTHING, Grant
from emporter_runtime.access_gate import GRANT, Access


def grant_of(request: Request) -> Grant:
    """What the gate let this request have; everything where there is no gate."""
    found: Grant = request.scope.get(GRANT, EVERYTHING)
    return found


def access_of(request: Request) -> Access | None:
    """Tokens and keys of this service; None where nothing is demanded and no link can be made."""
    found: Access | None = request.app.state.access
    return found


async def granted_page(volumes: Volumes, grant: Grant, limit: int, after: str) -> Page:
    """`Volumes.page` of what may be read. Where that is single revisions, each volume is listed at the newest of them."""
    if grant.everything:
        return await volumes.page(limit, after)
    page = await volumes.page(limit, after, grant.sees)
    found = [await _granted(volumes, grant, ref) for ref in page.refs]
    return Page(tuple(ref for ref in found if ref is not None), page.cursor)


async def granted_labels(volumes: Volumes, grant: Grant, volume: str) -> Sequence[str]:
    """The label volumes of an image of which some revision may be read."""
    return [name for name in await volumes.labels_of(volume) if grant.sees(name)]


async def _granted(volumes: Volumes, grant: Grant, current: VolumeRef) -> VolumeRef | None:
    if grant.allows(current):
        return current
    for revision in grant.revisions(current.volume):
        try:
            return await volumes.pinned(VolumeRef(current.volume, revision))
        except EmporterError:
            continue  # removed meanwhile, or never there
    return None
