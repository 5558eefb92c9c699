"""What the cataloger reads from the environment, prefix EMPORTER_."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from emporter_runtime.access_settings import AccessSettings
from emporter_runtime.settings import Settings


class CatalogerSettings(Settings, AccessSettings):
    """The settings every service has, and where the catalog lies."""

    database_url: Annotated[str, Field(pattern=r"^(sqlite\+aiosqlite:///.+|postgresql\+asyncpg://.+)$")] = (
        "sqlite+aiosqlite:///emporter-catalog.db"
    )
    """`sqlite+aiosqlite:///path` for one machine, `postgresql+asyncpg://user:password@host/database` for more."""
    catalog_url: str = ""
    """Public base of this service's API, for links; empty leaves links relative."""
    blocks_url: str = ""
    """Public base of the block-server, for links; empty leaves them out."""
    catalog_token: SecretStr = SecretStr("")
    """Bearer token of writes. Without one they are taken on a loopback address only."""
    openlineage_url: str = ""
    """Base of an OpenLineage server that gets every run's events; empty sends none."""
    openlineage_file: Path | None = None
    """A file every run's OpenLineage events are appended to, one a line."""
    webhook_allow_private: bool = False
    """Whether webhooks may go to addresses of private networks."""
    stream_keep_alive_seconds: Annotated[float, Field(gt=0)] = 15.0
    """How often a silent stream of job states says that it is still there; well under the minute after which proxies hang up."""
