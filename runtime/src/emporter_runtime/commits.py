"""Which revisions of a volume can be read: commits, less tombstones. Current is the highest of them that is not held."""

from __future__ import annotations

from emporter_contracts import storage
from emporter_contracts.plans import Commit
from emporter_runtime.objects import Objects


async def read_commit(objects: Objects, volume: str, revision: int) -> Commit | None:
    """The commit of one revision, None where it is not committed. Tombstones are not looked at."""
    body = await objects.find(storage.VOLUMES, storage.commit(volume, revision))
    return Commit.model_validate_json(body) if body is not None else None


async def committed(objects: Objects, volume: str) -> set[int]:
    """Every revision that was ever committed."""
    return _revisions(await objects.names(storage.VOLUMES, storage.commits_prefix(volume)))


async def removed(objects: Objects, volume: str) -> set[int]:
    """Every revision that has a tombstone."""
    return _revisions(await objects.names(storage.VOLUMES, storage.removed_prefix(volume)))


async def held(objects: Objects, volume: str) -> set[int]:
    """Every revision a quality gate keeps from becoming current; it can be read by its number."""
    return _revisions(await objects.names(storage.VOLUMES, storage.held_prefix(volume)))


async def current(objects: Objects, volume: str) -> int | None:
    """The highest committed revision that was neither removed nor held, None where there is none."""
    standing = await committed(objects, volume) - await removed(objects, volume) - await held(objects, volume)
    return max(standing, default=None)


async def release(objects: Objects, volume: str, revision: int) -> bool:
    """Let a held revision become current if it is the highest; whether it was held."""
    if revision not in await held(objects, volume):
        return False
    await objects.delete(storage.VOLUMES, [storage.hold(volume, revision)])
    return True


def _revisions(names: list[str]) -> set[int]:
    return {revision for name in names if (revision := storage.commit_revision(name)) is not None}
