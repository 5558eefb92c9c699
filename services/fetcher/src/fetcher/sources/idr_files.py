"""Where IDR keeps the files of an image: from the paths they were imported by, never from a guess at a folder.

IDR's own site maps the paths of the importing machine to its public folders in this way; prefixes that are not in the map are of
places that are not public.
"""

from __future__ import annotations

from collections.abc import Mapping

from fetcher.errors import NotInArchiveError
from fetcher.sources.over_files import url_of

PREFIXES: Mapping[str, str] = {
    "uod/idr/filesets": "",
    "idr/filesets": "",
    "uod/idr/incoming": "",
    "nfs/bioimage/drop": "",
    "bia-idr/S-BIAD582": "https://ftp.ebi.ac.uk/biostudies/fire/S-BIAD/582/S-BIAD582/Files",
}
"""Base URL by prefix of a client path; empty: the folder of all studies."""
FALLBACK: Mapping[str, str] = {
    "9846137": "idr0086-miron-micrographs/20200610-ftp/experimentD/Miron_FIB-SEM/Miron_FIB-SEM_processed/"
    "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif",
}
"""Path below the folder of all studies by image id, for when the API does not say: what the study's own list of files says."""


class FileMap:
    """Client paths to URLs. `files` is the folder of all studies."""

    def __init__(self, files: str, prefixes: Mapping[str, str], fallback: Mapping[str, str]) -> None:
        self._files = files
        self._prefixes = dict(sorted(prefixes.items(), key=lambda item: -len(item[0])))
        self._fallback = fallback

    @property
    def bases(self) -> tuple[str, ...]:
        """Every folder a path may be mapped to."""
        return (self._files, *filter(None, self._prefixes.values()))

    def located(self, client_path: str) -> tuple[str, str]:
        """(path below its folder, URL). Raises NotInArchiveError for a prefix nobody mapped."""
        path = client_path.strip("/")
        for prefix, base in self._prefixes.items():
            if path.startswith(prefix.strip("/") + "/"):
                return self.below(path[len(prefix.strip("/")) + 1 :], base)
        raise NotInArchiveError(
            f"{client_path[:300]!r} lies in no public folder that is known here",
            hint='an operator can map its prefix: EMPORTER_IDR_PREFIXES={"prefix": "https://…"}',
        )

    def below(self, path: str, base: str = "") -> tuple[str, str]:
        """A path below `base` or the folder of all studies, and its URL; NotInArchiveError for one that leads out."""
        steps = path.strip("/").split("/")
        if any(step in ("", ".", "..") for step in steps) or not path.isprintable():
            raise NotInArchiveError(f"{path[:300]!r} is no path below the archive's folder", hint="write it as the archive does")
        return "/".join(steps), url_of(base or self._files, "/".join(steps))

    def known(self, image: int) -> tuple[str, str] | None:
        """The file of an image by the table."""
        path = self._fallback.get(str(image))
        return self.below(path) if path else None
