"""Links as they stand on the archives' pages lead to the entry they are about."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from emporter.errors import MistakeError
from emporter.ingesting import Target, linked, target_of, targets_of

NEUROGLANCER = "https://hemibrain-neuroglancer.janelia.org/#!"
HEMIBRAIN = "neuroglancer-janelia-flyem-hemibrain"


def of_state(*layers: dict[str, object], at: str = "https://neuroglancer-demo.appspot.com/#!") -> str:
    return at + quote(json.dumps({"dimensions": {"x": [8e-9, "m"]}, "layers": list(layers)}))


@pytest.mark.parametrize(
    ("link", "source", "source_id"),
    [
        ("https://idr.openmicroscopy.org/webclient/img_detail/9846137/?dataset=10740", "idr", "9846137"),
        ("https://idr.openmicroscopy.org/webclient/?show=image-9846137", "idr", "9846137"),
        ("https://idr.openmicroscopy.org/webclient/?show=image-1|image-2", "idr", "1,2"),
        ("https://idr.openmicroscopy.org/webclient/?show=dataset-10740", "idr", "dataset:10740"),
        ("https://idr.openmicroscopy.org/iviewer/?images=9846137&dataset=10740", "idr", "9846137"),
        ("https://idr.openmicroscopy.org/api/v0/m/images/9846137/", "idr", "9846137"),
        ("https://idr.openmicroscopy.org/webgateway/render_image/9846137/0/0/", "idr", "9846137"),
        ("https://www.ebi.ac.uk/empiar/EMPIAR-11759/", "empiar", "EMPIAR-11759"),
        ("https://www.ebi.ac.uk/pdbe/emdb/empiar/entry/11759/", "empiar", "EMPIAR-11759"),
        ("https://empiar.pdbj.org/entry/11759/", "empiar", "EMPIAR-11759"),
        ("https://doi.org/10.6019/EMPIAR-11759", "empiar", "EMPIAR-11759"),
        ("https://ftp.ebi.ac.uk/empiar/world_availability/11759/", "empiar", "EMPIAR-11759"),
        ("https://ftp.ebi.ac.uk/empiar/world_availability/11759/data/", "empiar", "EMPIAR-11759"),
        ("https://www.epfl.ch/labs/cvlab/data/data-em/", "epfl", "volumedata"),
        ("https://cvlab.epfl.ch/data/em", "epfl", "volumedata"),
        (
            "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus/training.tif",
            *("epfl", "training"),
        ),
        ("https://openorganelle.janelia.org/datasets/jrc_mus-nacc-2", "openorganelle", "jrc_mus-nacc-2"),
        ("https://tinyurl.com/hemibrain-ng", "hemibrain", "em"),
        (f"gs://{HEMIBRAIN}/emdata/clahe_yz/jpeg", "hemibrain", "em-clahe"),
        (f"precomputed://gs://{HEMIBRAIN}/v1.1/segmentation", "hemibrain", "v1.1/segmentation"),
        (f"https://storage.googleapis.com/{HEMIBRAIN}/emdata/raw/jpeg", "hemibrain", "em"),
        (f"{NEUROGLANCER}gs://flyem-views/hemibrain/v1.2/base.json", "hemibrain", "em"),
        ("precomputed://https://host.example/em", "url", "precomputed://https://host.example/em"),
        ("precomputed://gs://bucket/em/", "url", "precomputed://https://storage.googleapis.com/bucket/em"),
        ("https://ftp.ebi.ac.uk/pub/databases/IDR/x.tif", "url", "https://ftp.ebi.ac.uk/pub/databases/IDR/x.tif"),
        ("https://host.example/volume.tif", "url", "https://host.example/volume.tif"),
        ("s3://bucket/x.zarr/", "url", "s3://bucket/x.zarr/"),
        ("ftp://host.example/a.mrc", "url", "ftp://host.example/a.mrc"),
    ],
)
def test_a_link_leads_to_its_entry(link: str, source: str, source_id: str) -> None:
    assert linked(link) == Target(source, source_id)
    assert target_of([link]) == Target(source, source_id)


@pytest.mark.parametrize(
    "link",
    [
        "s3://janelia-cosem-datasets/jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16",
        "https://janelia-cosem-datasets.s3.amazonaws.com/jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16/",
        "n5://s3://janelia-cosem-datasets/jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16/s0",
    ],
)
def test_a_link_into_openorganelles_bucket_names_one_of_the_arrays(link: str) -> None:
    assert linked(link) == Target("openorganelle", "jrc_hela-2", parameters={"array": "em/fibsem-uint16"})


def test_a_neuroglancer_link_stands_for_its_one_image_layer() -> None:
    em = {"type": "image", "source": {"url": f"precomputed://gs://{HEMIBRAIN}/emdata/clahe_yz/jpeg"}, "name": "emdata"}
    neurons = {"type": "segmentation", "source": f"precomputed://gs://{HEMIBRAIN}/v1.2/segmentation", "name": "neurons"}
    assert linked(of_state(em, neurons, at=NEUROGLANCER)) == Target("hemibrain", "em-clahe")
    assert linked(of_state(neurons)) == Target("hemibrain", "segmentation")
    newer = {"type": "image", "source": "https://host.example/em|neuroglancer-precomputed:", "name": "em"}
    assert linked(of_state(newer)) == Target("url", "precomputed://https://host.example/em")


def test_a_neuroglancer_link_with_several_images_says_which_there_are() -> None:
    layers = [{"type": "image", "source": f"precomputed://https://host.example/{n}", "name": f"em{n}"} for n in (1, 2)]
    with pytest.raises(MistakeError, match="shows 2 volumes") as refused:
        linked(of_state(*layers))
    assert "em2: precomputed://https://host.example/2" in refused.value.hint


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("https://idr.openmicroscopy.org/webclient/?show=plate-4299", "emporter browse idr plate 4299"),
        ("https://idr.openmicroscopy.org/webclient/?show=project-1161", "emporter browse idr project 1161"),
        ("https://idr.openmicroscopy.org/", "names no entry"),
        ("https://www.ebi.ac.uk/empiar/", "names no entry"),
        ("https://openorganelle.janelia.org/", "names no entry"),
        ("https://tinyurl.com/elsewhere", "does not say where it leads"),
        ("https://neuroglancer-demo.appspot.com/#!gs://else/where.json", "only points at its state"),
        ("https://neuroglancer-demo.appspot.com/#!%7B%22layers", "cut off"),
    ],
)
def test_a_link_that_names_no_entry_is_told_what_to_do(link: str, said: str) -> None:
    with pytest.raises(MistakeError) as refused:
        linked(link)
    assert said in str(refused.value)


def test_several_ids_after_an_archive_are_several_targets() -> None:
    assert targets_of(["idr", "1", "2", "3"]) == [Target("idr", "1"), Target("idr", "2"), Target("idr", "3")]
    assert targets_of(["idr", "1"]) == [Target("idr", "1")]


def test_links_to_ones_own_omero_are_known_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    link = "https://omero.example.org/webclient/?show=dataset-5"
    assert linked(link) == Target("url", link)
    monkeypatch.setenv("EMPORTER_IDR_BASE_URL", "https://omero.example.org")
    assert linked(link) == Target("idr", "dataset:5")
    assert linked("https://omero.example.org/data/x.tif") == Target("url", "https://omero.example.org/data/x.tif")
