"""Who may read the catalog where a token is demanded: who may read every volume, and who may write.

Lists, search, facets and citations speak of all volumes at once, so a token for some of them opens nothing here; nor does a link.
"""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Scope

from emporter_runtime.access import EVERYTHING, ForbiddenError, Grant
from emporter_runtime.access_gate import METRICS, Access, Gate, bearer_of


class CatalogGate(Gate):
    """The gate of every service, for whole scopes; the token of writes opens it, too."""

    def __init__(self, app: ASGIApp, access: Access, write_token: str) -> None:
        super().__init__(app, access)
        self._write_token = write_token.encode()

    def _admitted(self, scope: Scope) -> Grant:
        given = bearer_of(scope).encode()
        if self._write_token and hmac.compare_digest(given, self._write_token):
            return EVERYTHING
        grant = super()._admitted(scope)
        if not grant.everything and scope["path"] != METRICS:
            raise ForbiddenError(
                "the catalog is read with a token for all volumes", hint="emporter token new --volumes '*' makes one"
            )
        return grant
