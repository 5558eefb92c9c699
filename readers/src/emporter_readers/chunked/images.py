"""The images below a root: each a pyramid of arrays, or one array alone. Only the level asked for is parsed and ever read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from emporter_contracts.plans import Role
from emporter_readers.chunked import n5, precomputed, zarr2, zarr3
from emporter_readers.chunked.scales import Space, n5_space, ome_space
from emporter_readers.chunked.stored import StoredArray
from emporter_readers.chunked.tree import Document, Tree, under
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError
from emporter_readers.ordering import natural_order

_LEVEL = re.compile(r"s\d+\Z")


@dataclass(frozen=True, slots=True)
class Level:
    """One array of an image, with where it lies in space."""

    array: StoredArray
    space: Space
    start: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Image:
    """`levels` is how many there are, the finest first; `level` parses one of them."""

    path: str
    name: str
    levels: int
    level: Callable[[int], Level]
    role: Role | None = None
    said: dict[str, Document] | None = None
    """The documents of the whole image, verbatim, by name."""

    def at(self, number: int | None) -> Level:
        """Raises AmbiguousContentError where there is no such level."""
        if number is not None and number >= self.levels:
            raise AmbiguousContentError(
                f"{self.path or self.name or 'the image'}: has {self.levels} resolution levels, not {number + 1}",
                hint=f"select.level is 0 to {self.levels - 1}, 0 the finest",
            )
        return self.level(number or 0)


Documents = dict[str, Document]
"""Metadata by folder."""
Arrays = dict[str, Callable[[], StoredArray]]
"""Arrays by folder, each parsed when it is wanted."""


def zarr_images(tree: Tree) -> list[Image]:
    """Of Zarr v3 and v2, OME-Zarr or plain. A folder that holds both versions' metadata is read as v3."""
    groups, arrays = _zarr3_nodes(tree)
    older_groups, older_arrays = _zarr2_nodes(tree)
    return _images({**older_groups, **groups}, {**older_arrays, **arrays})


def n5_images(tree: Tree) -> list[Image]:
    """Datasets of N5, and groups of them named s0, s1, … as one image."""
    documents = {folder: _known(tree, under(folder, n5.ATTRIBUTES)) for folder in tree.folders_with(n5.ATTRIBUTES)}
    datasets = {folder: document for folder, document in documents.items() if n5.is_dataset(document)}
    groups: dict[str, list[str]] = {}
    for folder in datasets:
        parent, _, last = folder.rpartition("/")
        if _LEVEL.match(last):
            groups.setdefault(parent, []).append(folder)
    pyramids = [_n5_pyramid(parent, natural_order(levels), documents) for parent, levels in groups.items()]
    taken = {level for levels in groups.values() for level in levels}
    alone = [_n5_pyramid(folder, [folder], documents) for folder in datasets if folder not in taken]
    return _ordered([*pyramids, *alone])


def precomputed_images(tree: Tree) -> list[Image]:
    """Every folder with an `info` of a volume."""
    return _ordered([_precomputed(folder, _known(tree, under(folder, precomputed.INFO))) for folder in tree.folders_with("info")])


def multiscales_of(attributes: Document) -> list[Document]:
    """OME-Zarr's multiscales, of 0.5 (below `ome`) or older."""
    ome = attributes.get("ome")
    said = ome.get("multiscales") if isinstance(ome, dict) else attributes.get("multiscales")
    return (
        [one for one in said if isinstance(one, dict) and isinstance(one.get("datasets"), list)] if isinstance(said, list) else []
    )


def dataset_paths(folder: str, multiscale: Document) -> list[str]:
    """Folders of the levels of one multiscale, the finest first. Raises CorruptObjectError."""
    paths = [one.get("path") if isinstance(one, dict) else None for one in multiscale["datasets"]]
    if not paths or any(not isinstance(path, str) for path in paths):
        raise CorruptObjectError(f"{folder or 'the root'}: its multiscales name no datasets")
    return [under(folder, str(path)) for path in paths]


def _images(groups: Documents, arrays: Arrays) -> list[Image]:
    images, taken = [], set[str]()
    for folder, attributes in groups.items():
        for multiscale in multiscales_of(attributes):
            paths = dataset_paths(folder, multiscale)
            taken.update(paths)
            images.append(_ome(folder, attributes, multiscale, paths, arrays))
    for folder, parse in arrays.items():
        if folder not in taken:
            images.append(Image(folder, folder.rpartition("/")[2], 1, _alone(parse), _role(folder)))
    return _ordered(images)


def _alone(parse: Callable[[], StoredArray]) -> Callable[[int], Level]:
    def level(_: int) -> Level:
        array = parse()
        return Level(array, Space(array.axes))

    return level


def _ome(folder: str, attributes: Document, multiscale: Document, paths: list[str], arrays: Arrays) -> Image:
    def level(number: int) -> Level:
        path = paths[number]
        if path not in arrays:
            raise CorruptObjectError(f"{path}: is named by the multiscales of {folder or 'the root'}, but is not there")
        array = arrays[path]()
        return Level(array, ome_space(multiscale, multiscale["datasets"][number], len(array.shape)))

    name = multiscale.get("name")
    shown = name if isinstance(name, str) and name else folder.rpartition("/")[2]
    labels: Role | None = "labels" if "image-label" in attributes or "image-label" in _ome_part(attributes) else _role(folder)
    return Image(folder, shown, len(paths), level, labels, {under(folder, "attributes"): attributes})


def _ome_part(attributes: Document) -> Document:
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else {}


def _role(folder: str) -> Role | None:
    """OME-Zarr keeps label images in a group of this name."""
    return "labels" if "labels" in folder.split("/")[:-1] else None


def _zarr3_nodes(tree: Tree) -> tuple[Documents, Arrays]:
    documents = {folder: _known(tree, under(folder, zarr3.NODE)) for folder in tree.folders_with(zarr3.NODE)}
    for folder, document in list(documents.items()):
        consolidated = document.get("consolidated_metadata")
        inside = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        for path, node in inside.items() if isinstance(inside, dict) else []:
            if isinstance(node, dict):
                documents.setdefault(under(folder, path), node)
    groups = {f: _attributes(d.get("attributes")) for f, d in documents.items() if d.get("node_type") == "group"}
    arrays = {f: _later3(f, d) for f, d in documents.items() if d.get("node_type") != "group"}
    return groups, arrays


def _later3(folder: str, document: Document) -> Callable[[], StoredArray]:
    return lambda: zarr3.zarr3_array(folder, document)


def _zarr2_nodes(tree: Tree) -> tuple[Documents, Arrays]:
    found: dict[str, Documents] = {zarr2.ARRAY: {}, zarr2.GROUP: {}, zarr2.ATTRIBUTES: {}}
    for root in tree.folders_with(zarr2.CONSOLIDATED):
        inside = _known(tree, under(root, zarr2.CONSOLIDATED)).get("metadata")
        for path, document in inside.items() if isinstance(inside, dict) else []:
            folder, _, kind = path.rpartition("/")
            if kind in found and isinstance(document, dict):
                found[kind][under(root, folder)] = document
    for kind, documents in found.items():
        documents.update({folder: _known(tree, under(folder, kind)) for folder in tree.folders_with(kind)})
    attributes = found[zarr2.ATTRIBUTES]
    groups = {f: attributes.get(f, {}) for f in {*found[zarr2.GROUP], *attributes} if f not in found[zarr2.ARRAY]}
    return groups, {f: _later2(f, d, attributes.get(f, {})) for f, d in found[zarr2.ARRAY].items()}


def _later2(folder: str, document: Document, attributes: Document) -> Callable[[], StoredArray]:
    return lambda: zarr2.zarr2_array(folder, document, attributes)


def _n5_pyramid(folder: str, levels: list[str], documents: Documents) -> Image:
    parent = folder if levels != [folder] else folder.rpartition("/")[0]
    group = documents.get(parent, {}) if parent != levels[0] else {}

    def level(number: int) -> Level:
        array = n5.n5_array(levels[number], documents[levels[number]])
        return Level(array, n5_space(group, array.attributes, len(array.shape)))

    said = {under(parent, n5.ATTRIBUTES): group} if group else None
    return Image(folder, folder.rpartition("/")[2], len(levels), level, _role(folder), said)


def _precomputed(folder: str, document: Document) -> Image:
    def level(number: int) -> Level:
        scale = precomputed.scale_of(folder, document, number)
        sizes = (None, *(scale.resolution or (None, None, None)))
        return Level(scale.array, Space(precomputed.AXES, sizes, None), scale.start)

    role: Role | None = {"segmentation": "labels", "image": "image"}.get(str(document.get("type")))  # type: ignore[assignment]
    return Image(folder, folder.rpartition("/")[2], precomputed.scale_count(folder, document), level, role)


def _ordered(images: list[Image]) -> list[Image]:
    """By path, numbers as numbers; labels last."""
    order = {path: k for k, path in enumerate(natural_order({image.path for image in images}))}
    return sorted(images, key=lambda image: (image.role == "labels", order[image.path]))


def _known(tree: Tree, name: str) -> Document:
    document = tree.document(name)
    assert document is not None
    return document


def _attributes(said: object) -> Document:
    return said if isinstance(said, dict) else {}
