"""A file of requests: every field by its name, and every mistake by line and entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from emporter.errors import MistakeError
from emporter.listed import requests_in
from emporter_contracts.commands import IngestRequest, Output, RandomRegion, Region, Select

FIVE = Path(__file__).parents[2] / "examples" / "five.yaml"

EVERYTHING = """
requests:
  - source: url
    source_id: https://host.example/a.h5
    region: {origin: [1, 2, 3], shape: [4, 5, 6]}
    select: {series: 0, channel: 1, time: 2, level: 3}
    axes: zyx
    rgb: luma
    voxel_size_nm: [50, 8.5, null]
    role: labels
    labels_of: idr-1
    output: {chunk: [8, 8, 8], shard: [16, 16, 16], codec: zstd, verify: full}
    force: fetch
    refresh: true
    parameters: {dataset: /volumes/raw, imageset: 0}
"""


def test_every_field_of_a_request_may_be_said_by_its_name() -> None:
    (only,) = requests_in(EVERYTHING, "x.yaml")
    assert only.request == IngestRequest(
        source="url",
        source_id="https://host.example/a.h5",
        region=Region(origin=(1, 2, 3), shape=(4, 5, 6)),
        select=Select(series=0, channel=1, time=2, level=3),
        axes="zyx",
        rgb="luma",
        voxel_size_nm=(50, 8.5, None),
        role="labels",
        labels_of="idr-1",
        output=Output(chunk=(8, 8, 8), shard=(16, 16, 16), codec="zstd", verify="full"),
        force="fetch",
        refresh=True,
        parameters={"dataset": "/volumes/raw", "imageset": 0},
    )
    assert set(IngestRequest.model_fields) == only.request.model_fields_set | {"random_region"}


def test_the_list_may_stand_alone_in_json_too() -> None:
    found = requests_in('[{"source": "idr", "source_id": 9846137}, {"source": "hemibrain"}]', "x.json")
    assert [(one.request.source, one.request.source_id) for one in found] == [("idr", "9846137"), ("hemibrain", "em")]


def test_an_id_is_taken_as_it_is_written() -> None:
    (only,) = requests_in("- {source: url, source_id: 0012}", "x.yaml")
    assert only.request.source_id == "0012"


def test_a_link_stands_for_source_and_id_and_what_it_says_besides() -> None:
    link = "s3://janelia-cosem-datasets/jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16"
    (only,) = requests_in(f"- link: {link}\n  select: {{level: 1}}", "x.yaml")
    assert (only.request.source, only.request.source_id) == ("openorganelle", "jrc_hela-2")
    assert only.request.parameters == {"array": "em/fibsem-uint16"}
    assert only.request.select.level == 1


def test_the_example_asks_for_all_five_archives() -> None:
    found = [one.request for one in requests_in(FIVE.read_text(), FIVE.name)]
    assert [(r.source, r.source_id) for r in found] == [
        ("idr", "9846137"),
        ("empiar", "EMPIAR-11759"),
        ("epfl", "training"),
        ("openorganelle", "jrc_mus-nacc-2"),
        ("hemibrain", "em"),
    ]
    assert found[4].random_region == RandomRegion(shape=(128, 128, 128), seed=7)


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("- source: idr\n  source_id: 1\n- source: idr\n  sauce: 3", "line 4, entry 2", "sauce: there is no such field"),
        ("- source: idr\n  source_id: 1\n  region: {origin: [0, 0, 0], shap: [1, 1, 1]}", "line 3, entry 1", "region.shap"),
        ("- source: idr\n  source_id: 1\n  region:\n    origin: [0, 0, 0]\n    shape: [1, 0, 1]", "line 5, entry 1", "shape"),
        ("- source: idr\n  source_id: 1\n  axes: zyq", "line 3, entry 1", "axes"),
        ("- source: idr\n  source_id: 1\n  source_id: 2", "line 3, entry 1", "twice"),
        ("- source: idr", "line 1, entry 1", "which of its entries"),
        ("- source: idrr\n  source_id: 1", "line 1, entry 1", "did you mean idr?"),
        ("- region: {origin: [0, 0, 0], shape: [1, 1, 1]}", "line 1, entry 1", "neither link nor source"),
        ("- link: https://host.example/x.tif\n  source: url", "line 1, entry 1", "link stands beside source"),
        ("-\n  link: somewhere", "line 2, entry 1", "is no link"),
        ("- link: https://idr.openmicroscopy.org/webclient/?show=plate-1", "line 1, entry 1", "emporter browse idr plate 1"),
        (
            "- source: idr\n  source_id: 1\n\n- source: idr\n  source_id: 1",
            "line 4, entry 2",
            "the same as x.yaml line 1, entry 1",
        ),
        ("- just a word", "line 1, entry 1", "is no request"),
        ("- {source: idr", "line 1", ""),
        ("- source: idr\n  source_id: 1\n  parameters: {when: 2020-01-01}", "line 3, entry 1", "parameters"),
        ("requests: []", "", "lists no request"),
        ("", "", "lists no request"),
        ("sources: [1]", "", "x.yaml holds sources"),
        ("- !!python/object:os.system {}", "line 1, entry 1", ""),
    ],
)
def test_a_mistake_is_named_by_line_and_entry(text: str, place: str, said: str) -> None:
    with pytest.raises(MistakeError) as refused:
        requests_in(text, "x.yaml")
    assert refused.value.message.startswith(f"x.yaml {place}".rstrip())
    assert said in str(refused.value)
    assert refused.value.hint
