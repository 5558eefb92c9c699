"""Where everything lies (PROTOCOL section 3): buckets are names under one store URL, keys are made here and nowhere else."""

from __future__ import annotations

import hashlib
import re

INBOX = "emporter-inbox"
RAW = "emporter-raw"
VOLUMES = "emporter-volumes"
BUCKETS: tuple[str, ...] = (INBOX, RAW, VOLUMES)

NOT_HIDDEN = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
"""Of names that begin with a dot those that are data: without them a folder of Zarr v2 is a heap of chunks."""
COMMIT_DIGITS = 8
"""Digits of a revision in a commit's name, so that names sort as numbers do."""

_COMMIT = re.compile(rf"(?:^|/)(?P<revision>[0-9]{{{COMMIT_DIGITS}}})\.json\Z")
_REVISION = re.compile(r"(?:^|/)r(?P<revision>[1-9][0-9]*)(?:\.ome\.zarr)?/?\Z")


def is_shown(name: str) -> bool:
    """Whether a file or folder of that name is part of a data set: what begins with a dot is someone's housekeeping."""
    return not name.startswith(".") or name in NOT_HIDDEN


def origin(url: str, version: str) -> str:
    """The name raw bytes are shared under: the same bytes of the same archive are stored once for all jobs."""
    return hashlib.sha256(f"{url}\0{version}".encode()).hexdigest()[:32]


def segment(origin_id: str, k: int) -> str:
    """Key in RAW of the k-th segment of a raw object."""
    return f"objects/{origin_id}/{k}"


def job_prefix(job: str) -> str:
    return f"jobs/{job}/"


def run_prefix(job: str, revision: int) -> str:
    """Below it, in RAW: request.json, generations/, plan.json, manifest.json, conversion.json; all create-only."""
    return f"jobs/{job}/r{revision}/"


def request(job: str, revision: int) -> str:
    return run_prefix(job, revision) + "request.json"


def plan(job: str, revision: int) -> str:
    return run_prefix(job, revision) + "plan.json"


def manifest(job: str, revision: int) -> str:
    return run_prefix(job, revision) + "manifest.json"


def conversion(job: str, revision: int) -> str:
    return run_prefix(job, revision) + "conversion.json"


def generation(job: str, revision: int, n: int) -> str:
    return run_prefix(job, revision) + f"generations/{n}.json"


def generation_ended(job: str, revision: int, n: int) -> str:
    return run_prefix(job, revision) + f"generations/{n}.ended.json"


def expired(job: str, revision: int) -> str:
    """Says that a run's work was taken away and can't be resumed."""
    return run_prefix(job, revision) + "expired.json"


ANNOTATIONS_PREFIX = "catalog/annotations/"
EXTERNALS_PREFIX = "catalog/external/"


def annotation(volume: str, key: str) -> str:
    """What a user noted about a volume, in RAW: with it a lost catalog is rebuilt whole."""
    return f"{ANNOTATIONS_PREFIX}{volume}/{key}.json"


def external(volume: str) -> str:
    """The record an outside script entered, in RAW."""
    return f"{EXTERNALS_PREFIX}{volume}.json"


def zarr_root(volume: str, revision: int) -> str:
    """Folder in VOLUMES of one revision's OME-Zarr, with its slash."""
    return f"{volume}/r{revision}.ome.zarr/"


def revision_folder(volume: str, revision: int) -> str:
    """Folder in VOLUMES, with its slash, of what one revision says of its arrays."""
    return f"{volume}/r{revision}/"


def record(volume: str, revision: int) -> str:
    return revision_folder(volume, revision) + "record.json"


def registration(volume: str, revision: int) -> str:
    """Only of a volume that is read where it lies: what it is and how to tell that it changed."""
    return revision_folder(volume, revision) + "registration.json"


def provenance(volume: str, revision: int) -> str:
    return revision_folder(volume, revision) + "provenance.json"


def digests(volume: str, revision: int) -> str:
    return revision_folder(volume, revision) + "digests.json"


def occupancy(volume: str, revision: int) -> str:
    """Folder in VOLUMES, with its slash, of a Zarr v3 array (uint32): of each level-0 chunk, how many voxels are foreground."""
    return revision_folder(volume, revision) + "occupancy.zarr/"


def census(volume: str, revision: int, n: int) -> str:
    """What task `n` of level 0 counted of its voxels, in VOLUMES: an archive of numpy arrays (npz), create-only."""
    return revision_folder(volume, revision) + f"census/{n}.npz"


def slices(volume: str, revision: int) -> str:
    """Per-slice facts of level 0, in VOLUMES beside the record: one list per fact, an entry for each z."""
    return revision_folder(volume, revision) + "slices.json"


def held_prefix(volume: str) -> str:
    return f"{volume}/held/"


def hold(volume: str, revision: int) -> str:
    """Keeps a committed revision from becoming current: a gate failed. Written before the commit, deleted to release."""
    return f"{volume}/held/{revision:0{COMMIT_DIGITS}}.json"


def commits_prefix(volume: str) -> str:
    return f"{volume}/commits/"


def commit(volume: str, revision: int) -> str:
    """The commit point: create-only, names revision and digest."""
    return f"{volume}/commits/{revision:0{COMMIT_DIGITS}}.json"


def removed_prefix(volume: str) -> str:
    return f"{volume}/removed/"


def tombstone(volume: str, revision: int) -> str:
    """Says that a revision was removed; create-only."""
    return f"{volume}/removed/{revision:0{COMMIT_DIGITS}}.json"


def commit_revision(key: str) -> int | None:
    """The revision a commit or tombstone names, or None where the key is neither."""
    match = _COMMIT.search(key)
    return int(match["revision"]) if match else None


def run_revision(prefix: str) -> int | None:
    """The revision of a run's folder `…/r<N>/`, or None."""
    match = _REVISION.search(prefix)
    return int(match["revision"]) if match else None


def shard_key(level: int, index: tuple[int, int, int]) -> str:
    """Key of a shard below its zarr_root (Zarr v3, default chunk key encoding)."""
    z, y, x = index
    return f"{level}/c/{z}/{y}/{x}"
