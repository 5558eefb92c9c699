"""Links as people copy them out of a browser: which entry of which archive a landing page, a viewer or a DOI is about.

What no rule here knows is none of theirs: then a URL is a file or the root of an array (source `url`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import JsonValue

from emporter.errors import MistakeError

HEMIBRAIN_BUCKET = "neuroglancer-janelia-flyem-hemibrain"
OPENORGANELLE_BUCKET = "janelia-cosem-datasets"
GOOGLE = "https://storage.googleapis.com/"
HEMIBRAIN_NAMES = {
    "emdata/raw/jpeg": "em",
    "emdata/clahe_yz/jpeg": "em-clahe",
    "v1.2/segmentation": "segmentation",
    "mask_normalized_round6": "mask",
}
"""Short names of source `hemibrain`, by the folder of its bucket; other folders are named by their paths."""
KINDS = ("precomputed", "zarr", "zarr2", "zarr3", "n5")
"""What Neuroglancer writes before the URL of an array."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of one archive, or one URL, as a request names it."""

    source: str
    source_id: str
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


def entry_of(link: str) -> Entry | None:
    """The entry that `link` is about; None where it is no link to an archive known here.

    Raises MistakeError for a link to an archive that names nothing which could be ingested.
    """
    if link.startswith(("gs://", f"s3://{OPENORGANELLE_BUCKET}/")) or _kind(link):
        return _array(link)
    parts = urlsplit(link)
    host = (parts.hostname or "").removeprefix("www.")
    rule = HOSTS.get(host)
    if rule is not None:
        return rule(link)
    if host and host == _own_omero() and re.match(r"/(?:webclient|webgateway|iviewer|api)/", parts.path):
        return _idr(link)
    if "#!" in link:
        return _neuroglancer(link)
    return None


def _own_omero() -> str:
    """Host of the server that is asked as `idr`, which may be one's own."""
    from emporter.archive_settings import ArchiveSettings

    return (urlsplit(ArchiveSettings().idr_base_url).hostname or "").removeprefix("www.")


def _idr(link: str) -> Entry | None:
    """OMERO.web: pages, viewers, its API, pictures it draws; a picture stands for its image, whose file is fetched."""
    parts = urlsplit(link)
    asked = parse_qs(parts.query)
    if match := re.search(r"/(?:img_detail|render_[a-z_]+|imgData|img_map|metadata_details/image)/(\d+)", parts.path):
        return Entry("idr", match[1])
    if match := re.search(r"/api/v0/m/(images|datasets)/(\d+)", parts.path):
        return Entry("idr", match[2] if match[1] == "images" else f"dataset:{match[2]}")
    if "iviewer" in parts.path and asked.get("images"):
        return Entry("idr", asked["images"][0])
    if "iviewer" in parts.path and asked.get("dataset"):
        return Entry("idr", f"dataset:{asked['dataset'][0]}")
    shown = (asked.get("show") or asked.get("path") or [""])[0]
    return _shown(shown) if shown else _no_entry(link, "name an image: emporter ingest idr 9846137")


def _shown(shown: str) -> Entry:
    """`image-1|image-2`, `dataset-10740`; what is larger than a dataset is to be browsed."""
    named = [re.fullmatch(r"([a-z]+)-(\d+)", one) for one in shown.split("|")]
    known = [match for match in named if match is not None]
    images = [match[2] for match in known if match[1] == "image"]
    if images and len(images) == len(named):
        return Entry("idr", ",".join(images))
    if len(known) == 1 and known[0][1] == "dataset":
        return Entry("idr", f"dataset:{known[0][2]}")
    if len(known) == 1:
        kind, number = known[0].groups()
        raise MistakeError(
            f"this link shows {kind} {number}, which is no image", hint=f"see what it holds: emporter browse idr {kind} {number}"
        )
    raise MistakeError(f"this link shows {shown[:80]!r}", hint="name images or one dataset: emporter ingest idr 9846137")


def _empiar(link: str) -> Entry | None:
    """EMPIAR's pages and API, its DOIs, mirrors, and the folder of an entry; a single file stays a URL."""
    match = re.search(r"EMPIAR-(\d{4,7})", link, re.IGNORECASE) or re.search(r"/(?:entry|pdbe/emdb/empiar/entry)/(\d{4,7})", link)
    if match is None:
        match = re.search(r"/empiar/world_availability/(\d{4,7})(?:/|/data/?)?\Z", link)
    return Entry("empiar", f"EMPIAR-{match[1]}") if match else None


def _ebi(link: str) -> Entry | None:
    if "/empiar" not in link:
        return None
    is_page = re.search(r"/empiar/?\Z", urlsplit(link).path) is not None
    return _no_entry(link, "name an entry: emporter ingest empiar EMPIAR-11759") if is_page else _empiar(link)


def _epfl(link: str) -> Entry | None:
    """The page stands for its whole volume; the other files are named by their own links."""
    path = unquote(urlsplit(link).path)
    if match := re.search(r"ElectronMicroscopy_Hippocampus/([a-z_]+)\.tif\Z", path):
        return Entry("epfl", match[1])
    if re.search(r"/data/(?:data-)?em(?:/index\.\w+)?/?\Z", path) or path.rstrip("/").endswith("ElectronMicroscopy_Hippocampus"):
        return Entry("epfl", "volumedata")
    return None


def _openorganelle(link: str) -> Entry | None:
    match = re.search(r"/datasets/([A-Za-z0-9][A-Za-z0-9_.-]*)", urlsplit(link).path)
    return Entry("openorganelle", match[1]) if match else _no_entry(link, "name a data set: emporter ingest openorganelle ID")


def _short_link(link: str) -> Entry | None:
    """The one short link that is known; another says nothing about where it leads."""
    name = urlsplit(link).path.strip("/").lower()
    if name.startswith("hemibrain-ng"):
        return Entry("hemibrain", "em")
    raise MistakeError("a short link does not say where it leads", hint="open it in a browser and copy the address it ends at")


def _hemibrain(link: str) -> Entry | None:
    if "#!" in link:
        return _neuroglancer(link)
    return Entry("hemibrain", "em") if "hemibrain" in link else None


def _doi(link: str) -> Entry | None:
    return _empiar(link)


def _neuroglancer(link: str) -> Entry | None:
    """The one image layer of a Neuroglancer link, else its one other layer. Raises MistakeError where there are several."""
    said = unquote(link.partition("#!")[2])
    if not said.startswith("{"):
        if "hemibrain" in said:
            return Entry("hemibrain", "em")
        raise MistakeError("this Neuroglancer link only points at its state", hint="copy the URL of the layer's source instead")
    try:
        state = json.loads(said)
    except ValueError:
        raise MistakeError("this Neuroglancer link is cut off", hint="copy all of it, in quotes") from None
    layers = [(name, kind, url) for name, kind, urls in map(_layer, _layers(state)) for url in urls if _kind(url)]
    images = [layer for layer in layers if layer[1] == "image"] or layers
    if len(images) == 1:
        return _array(images[0][2])
    names = ", ".join(f"{name}: {url}" for name, _, url in images[:8])
    raise MistakeError(
        f"this Neuroglancer link shows {len(images) or 'no'} volumes", hint=f"name one of them: {names}" if names else ""
    )


def _layers(state: JsonValue) -> list[JsonValue]:
    layers = state.get("layers") if isinstance(state, dict) else None
    if isinstance(layers, dict):
        # So older versions wrote them: by name.
        return [{"name": name, **layer} for name, layer in layers.items() if isinstance(layer, dict)]
    return layers if isinstance(layers, list) else []


def _layer(layer: JsonValue) -> tuple[str, str, list[str]]:
    """Name, type and the URLs of its sources."""
    if not isinstance(layer, dict):
        return "", "", []
    sources = layer.get("source")
    listed = sources if isinstance(sources, list) else [sources]
    urls = [one.get("url") if isinstance(one, dict) else one for one in listed]
    return str(layer.get("name", "")), str(layer.get("type", "")), [url for url in urls if isinstance(url, str)]


def _kind(url: str) -> str:
    """`precomputed` of `precomputed://https://…`, or of `https://…|neuroglancer-precomputed:`; empty where none is said."""
    kind, _, rest = url.partition("://")
    if kind in KINDS and "://" in rest:
        return kind
    tail = url.rstrip("/:").rpartition("|")[2].removeprefix("neuroglancer-")
    return tail if "|" in url and tail in KINDS else ""


def _array(url: str) -> Entry:
    """An array by its URL: of a bucket that is an archive here, or of source `url`."""
    kind = _kind(url)
    plain = url.partition("|")[0] if "|" in url else url.removeprefix(f"{kind}://") if kind else url
    plain = plain.rstrip("/")
    if plain.startswith("gs://"):
        plain = GOOGLE + plain.removeprefix("gs://")
    hemibrain = f"{GOOGLE}{HEMIBRAIN_BUCKET}/"
    if plain.startswith(hemibrain):
        path = plain.removeprefix(hemibrain)
        return Entry("hemibrain", HEMIBRAIN_NAMES.get(path, path))
    return _openorganelle_array(plain) or Entry("url", f"{kind}://{plain}" if kind else plain)


def _openorganelle_array(url: str) -> Entry | None:
    """`s3://janelia-cosem-datasets/NAME/NAME.zarr/recon-1/em/ARRAY`, also over HTTPS."""
    host = re.escape(OPENORGANELLE_BUCKET)
    where = rf"(?:s3://{host}|https?://{host}\.s3[a-z0-9.-]*\.amazonaws\.com|https?://s3[a-z0-9.-]*\.amazonaws\.com/{host})"
    match = re.match(rf"{where}/([A-Za-z0-9][A-Za-z0-9_.-]*)(?:/[^/]+\.(?:zarr|n5)(?:/(.+))?)?/?\Z", url)
    if match is None:
        return None
    dataset, path = match.groups()
    # A level of the pyramid is no image of its own: which one is meant is said by --level.
    array = re.sub(r"/s\d+\Z", "", path.rstrip("/")) if path else ""
    return Entry("openorganelle", dataset, {"array": array} if array else {})


def _no_entry(link: str, hint: str) -> NoReturn:
    raise MistakeError(f"{link[:120]} names no entry of the archive", hint=hint)


def _bucket_page(link: str) -> Entry | None:
    return _openorganelle_array(link.partition("?")[0])


def _google(link: str) -> Entry | None:
    is_root = f"/{HEMIBRAIN_BUCKET}/" in link and not urlsplit(link).path.endswith("/info")
    return _array(link) if is_root else None


HOSTS: Mapping[str, Callable[[str], Entry | None]] = {
    "idr.openmicroscopy.org": _idr,
    "ebi.ac.uk": _ebi,
    "ftp.ebi.ac.uk": _ebi,
    "empiar.pdbj.org": _empiar,
    "doi.org": _doi,
    "dx.doi.org": _doi,
    "epfl.ch": _epfl,
    "cvlab.epfl.ch": _epfl,
    "documents.epfl.ch": _epfl,
    "openorganelle.janelia.org": _openorganelle,
    "tinyurl.com": _short_link,
    "hemibrain-neuroglancer.janelia.org": _hemibrain,
    "janelia.org": _hemibrain,
    "storage.googleapis.com": _google,
    f"{OPENORGANELLE_BUCKET}.s3.amazonaws.com": _bucket_page,
    f"{OPENORGANELLE_BUCKET}.s3.us-east-1.amazonaws.com": _bucket_page,
    "s3.amazonaws.com": _bucket_page,
}
"""Rules by host, without `www.`."""
