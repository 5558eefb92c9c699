"""What a service that others may read from is told about them, prefix EMPORTER_."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from emporter_runtime.access_gate import Access, Mode
from emporter_runtime.settings import HttpSettings


class AccessSettings(HttpSettings):
    """Nothing is demanded where only this machine can connect and no tokens are named."""

    access: Mode = "auto"
    """Who may read: auto demands a token wherever there are tokens or others can connect, required always, open never."""
    access_file: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = None
    """The file of bearer tokens that `emporter token` writes; read again when it changes."""
    link_secret_key: SecretStr = SecretStr("")
    """Signs links (`emporter link --expires`), 32 characters or more; several with commas: the first signs, all are valid."""

    def who_may_read(self) -> Access | None:
        """Tokens and keys; None where nothing is demanded and no link can be made. Raises AccessSettingsError."""
        return Access.of(self.access, self.http_host, self.access_file, self.link_secret_key.get_secret_value())
