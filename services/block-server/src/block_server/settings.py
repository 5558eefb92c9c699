"""What the block-server reads from the environment, prefix EMPORTER_."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from emporter_runtime.access_settings import AccessSettings
from emporter_runtime.roots import RootSettings

MIB = 2**20


class BlockServerSettings(RootSettings, AccessSettings):
    """A store, a port, and how much memory the voxels may take: about cache + in flight + passthrough in all."""

    blocks_url: str = ""
    """Public base of this service, for links; empty takes what the request was sent to."""
    catalog_url: str = ""
    """Public base of the catalog, for links; empty leaves them out."""
    blocks_cache_bytes: Annotated[int, Field(ge=0)] = 1024 * MIB
    """Of decoded chunks kept, over all volumes."""
    blocks_disk_cache: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = None
    """A folder on a near disk for copies of shards, where the store is S3; none by default."""
    blocks_disk_cache_bytes: Annotated[int, Field(ge=0)] = 20_480 * MIB
    """Of such copies; the longest unused are given up."""
    blocks_in_flight_bytes: Annotated[int, Field(ge=8 * MIB)] = 512 * MIB
    """Of voxels, and of chunks being decoded, that requests may hold at once; more wait a moment, then get 503. A larger box is
    sent as it is read; where one chunk takes more, it is 413."""
    blocks_request_bytes: Annotated[int, Field(ge=MIB)] = 16_384 * MIB
    """Of voxels that a single request may ask for; more gets 413."""
    blocks_request_decoded_bytes: Annotated[int, Field(ge=MIB)] = 262_144 * MIB
    """Of chunks that a single request may have decoded; more gets 413. It bounds work, not memory: a batch of 256 crops of 128³,
    each in eight chunks of 64 MiB, is half of it, and takes some minutes."""
    blocks_passthrough_bytes: Annotated[int, Field(ge=8 * MIB)] = 256 * MIB
    """Of stored bytes that requests for the Zarr itself may hold at once."""
    blocks_wait_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How long a request waits for its share before it is told to come back."""
    blocks_open_volumes: Annotated[int, Field(ge=1)] = 256
    """Revisions kept open: a few kB each, and no store call to use one again."""
    blocks_fresh_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How old the knowledge may be which revisions are committed and which removed."""
    blocks_source_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How old the look at a source may be whose volume is read where it lies, before an answer from it."""
