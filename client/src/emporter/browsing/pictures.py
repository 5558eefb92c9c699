"""Rendered pictures saved as what they are: named as pictures, and with a comment inside that says so.

They are 8 bits after contrast settings and lossy compression: whoever finds one later must not take it for voxels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from emporter.browsing.omero import Omero
from emporter.browsing.things import Picture, Thing
from emporter.errors import MistakeError, UnreachableError
from emporter_contracts.ids import slug

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
PNG_HEADER_END = 33
"""Signature, and the IHDR chunk of 13 bytes with its frame."""
MOST_PICTURES = 1000
"""Saved by one command: a plate has a few hundred fields."""


def save_thumbnails(omero: Omero, images: Sequence[Thing], folder: Path) -> list[Picture]:
    """A small picture of each image, as `image-<id>.thumbnail.jpg`. Raises NotThereError, UnreachableError, MistakeError."""
    return [
        _save(omero.thumbnail(int(image.id)), folder, image, f"image-{slug(image.id)}.thumbnail", omero.base)
        for image in _few(images)
    ]


def save_rendered(omero: Omero, images: Sequence[Thing], folder: Path) -> list[Picture]:
    """The middle plane of each image as the server renders it, as `image-<id>.rendered-z<z>-t0.jpg`."""
    saved = []
    for image in _few(images):
        whole = image if image.details.get("shape") else omero.look("image", int(image.id))
        shape = whole.details.get("shape")
        depth = shape[0] if isinstance(shape, list) and isinstance(shape[0], int) else 1
        name = f"image-{slug(image.id)}.rendered-z{depth // 2}-t0"
        saved.append(_save(omero.rendered(int(image.id), depth // 2), folder, image, name, omero.base))
    return saved


def marked(body: bytes, comment: str) -> bytes:
    """The same picture with a comment in it. Raises UnreachableError where it is no JPEG or PNG."""
    text = comment.encode("latin-1", "replace")
    if body.startswith(JPEG):
        return JPEG + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + body[2:]
    if body.startswith(PNG):
        data = b"Comment\x00" + text
        chunk = len(data).to_bytes(4, "big") + b"tEXt" + data + zlib.crc32(b"tEXt" + data).to_bytes(4, "big")
        return body[:PNG_HEADER_END] + chunk + body[PNG_HEADER_END:]
    raise UnreachableError("the archive answered with something that is no picture", hint="open it in a browser")


def _save(body: bytes, folder: Path, image: Thing, name: str, base: str) -> Picture:
    of = f"image {image.id} of {base}"
    picture = marked(body, f"Rendered picture of {of}: 8-bit, after contrast settings, lossy. Not the image's data.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{'jpg' if picture.startswith(JPEG) else 'png'}"
    path.write_bytes(picture)
    return Picture(of=of, path=str(path))


def _few(images: Sequence[Thing]) -> Sequence[Thing]:
    if not images:
        raise MistakeError("there is no image here to show", hint="name an image, a dataset, a well or a plate")
    if len(images) > MOST_PICTURES:
        raise MistakeError(f"{len(images)} images are more than {MOST_PICTURES} pictures", hint="choose a well or one image")
    return images
