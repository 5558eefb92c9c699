"""Checksums of a first run, and what a later one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emporter.checksums import Checksums, Sums
from emporter.errors import MistakeError
from emporter_contracts.commands import IngestRequest

REQUEST = IngestRequest(source="idr", source_id="1")


def a_record(voxels: str = "a" * 64, **objects: str) -> dict[str, Any]:
    served = [{"url": f"https://host/{name}", "sha256": digest} for name, digest in (objects or {"x.tif": "b" * 64}).items()]
    return {"volume": "idr-1", "metadata": {"technical": {"sha256": voxels}, "provenance": {"objects": served}}}


def sums(*records: dict[str, Any]) -> Sums:
    return Sums.of(REQUEST, "idr-1", records)


def kept(path: Path) -> Checksums:
    first = Checksums.at(path)
    assert not first.knows(REQUEST)
    assert first.compare(REQUEST, sums(a_record())) == []
    first.save()
    return Checksums.at(path)


def test_the_first_run_is_kept_and_the_same_bytes_are_found_the_same(tmp_path: Path) -> None:
    later = kept(tmp_path / "sums.json")
    assert later.knows(REQUEST)
    assert later.compare(REQUEST, sums(a_record())) == []
    assert not later.knows(REQUEST.model_copy(update={"source_id": "2"}))


def test_a_forced_run_is_compared_with_the_plain_one(tmp_path: Path) -> None:
    assert kept(tmp_path / "sums.json").knows(REQUEST.model_copy(update={"force": "fetch"}))


def test_what_differs_is_named(tmp_path: Path) -> None:
    later = kept(tmp_path / "sums.json")
    other = sums(a_record(voxels="c" * 64, **{"x.tif": "d" * 64, "y.tif": "e" * 64}))
    assert later.compare(REQUEST, other) == [
        "object https://host/x.tif: sha256 was bbbbbbbbbbbb…, is dddddddddddd…",
        "object https://host/y.tif: is new",
        "voxels of the volume: sha256 was aaaaaaaaaaaa…, is cccccccccccc…",
    ]
    assert later.compare(REQUEST, sums(a_record(**{"z.tif": "e" * 64})))[0] == "object https://host/x.tif: is gone"


def test_a_run_that_differs_does_not_change_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "sums.json"
    later = kept(path)
    before = path.read_bytes()
    assert later.compare(REQUEST, sums(a_record(voxels="c" * 64)))
    later.save()
    assert path.read_bytes() == before


def test_another_file_is_not_taken_for_checksums(tmp_path: Path) -> None:
    for text in ("no json", "[]", "{}", '{"requests": {"x": 1}}'):
        (tmp_path / "x").write_text(text)
        with pytest.raises(MistakeError, match="holds no checksums"):
            Checksums.at(tmp_path / "x")


def test_voxels_hashed_plane_by_plane_are_never_taken_for_those_hashed_in_order() -> None:
    planes = a_record()
    planes["metadata"]["technical"] = {"sha256": None, "planes_sha256": "a" * 64}
    assert sums(planes).voxels != sums(a_record()).voxels
    planes["metadata"]["technical"]["planes_sha256"] = None
    with pytest.raises(MistakeError):
        sums(planes)
