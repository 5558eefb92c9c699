"""What a fetcher reads from the environment besides what every service does."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from emporter_runtime.roots import RootSettings
from emporter_runtime.settings import Settings


class FetcherSettings(Settings, RootSettings):
    """EMPORTER_… of the fetcher; what it may open is said as for what is read in place."""

    epfl_base_url: str = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus/"
    """Folder of the EPFL files; the `%20` is part of it as it stands."""
    idr_base_url: str = "https://idr.openmicroscopy.org"
    """OMERO server of source `idr`; its host, and those of the folders below, are allowed by naming them."""
    idr_user: str = ""
    """Who logs in to that server; empty: nobody, which is all that public ones need."""
    idr_password: SecretStr = SecretStr("")
    idr_server: int | None = None
    """Which of the OMERO servers behind that address, by its id; None: the first it offers."""
    idr_files_url: str = "https://ftp.ebi.ac.uk/pub/databases/IDR"
    """Public folder of all studies, to which IDR's own site maps the paths its images were imported by."""
    idr_ftp_url: str = "ftp://ftp.ebi.ac.uk/pub/databases/IDR"
    """The same folder over FTP, for when HTTPS fails; empty: none."""
    idr_prefixes: dict[str, str] = {}
    """More prefixes of client paths and the folders they are mapped to (empty: idr_files_url): {"uod/idr/filesets": ""}."""
    idr_fallback_files: dict[str, str] = {}
    """Paths below idr_files_url by image id, for when the API does not say."""
    empiar_base_url: str = "https://www.ebi.ac.uk/empiar"
    """EMPIAR's site, whose API describes entries."""
    empiar_files_url: str = "https://ftp.ebi.ac.uk/empiar/world_availability"
    """Folder of all entries, by number."""
    empiar_ftp_url: str = "ftp://ftp.ebi.ac.uk/empiar/world_availability"
    """The same folder over FTP; empty: none."""
    openorganelle_endpoint: str = ""
    """S3 endpoint of source `openorganelle`, asked in path style; empty: AWS."""
    openorganelle_bucket: str = "janelia-cosem-datasets"
    openorganelle_region: str = "us-east-1"
    openorganelle_connections: Annotated[int, Field(ge=1, le=256)] = 32
    """Chunks fetched at once: they are small, and what one costs is a round trip."""
    hemibrain_base_url: str = "https://storage.googleapis.com/neuroglancer-janelia-flyem-hemibrain/"
    """Folder of FlyEM's precomputed volumes."""
    hemibrain_dvid_url: str = "https://hemibrain-dvid.janelia.org/api/node/a89eb3af216a46cdba81204d8f954786/"
    """A node of a DVID server that has the same voxels."""
    hemibrain_connections: Annotated[int, Field(ge=1, le=256)] = 16
    """Chunks fetched at once."""
    unpacked_bytes: Annotated[int, Field(ge=1)] = 2**40
    """Bytes that the files of one .zip, .tar, .gz or .bz2 may have in all."""
    segments_in_flight: Annotated[int, Field(ge=1, le=256)] = 4
    """Segments of 64 MiB a process holds in memory at once, over all sources."""
    connections_per_host: Annotated[int, Field(ge=1, le=64)] = 4
    """Connections a process holds to one host at once. Public archives ask for few."""
