"""Where the archives are asked, from the same environment as the services: EMPORTER_… (a mirror, one's own OMERO, a test)."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class ArchiveSettings(BaseSettings):
    """Names, meanings and defaults are the fetcher's (`fetcher.settings`); a test holds the two together."""

    model_config = SettingsConfigDict(env_prefix="EMPORTER_", extra="ignore")

    url_s3_endpoint: str = ""
    """Where `s3://` is asked, in path style; empty: AWS."""
    url_s3_region: str = "us-east-1"
    idr_base_url: str = "https://idr.openmicroscopy.org"
    """The OMERO server that is browsed as `idr`."""
    empiar_base_url: str = "https://www.ebi.ac.uk/empiar"
    openorganelle_endpoint: str = ""
    """S3 endpoint of OpenOrganelle's bucket, in path style; empty: AWS."""
    openorganelle_bucket: str = "janelia-cosem-datasets"
    openorganelle_region: str = "us-east-1"
