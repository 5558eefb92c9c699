"""A session of OMERO.web: token, login, cookies.

https://omero.readthedocs.io/en/stable/developers/json-api.html#login. The session is made when it is first needed, and made
again when the server no longer knows it. Its cookies are for that server only: no redirect carries them to another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from pydantic import JsonValue, SecretStr

from fetcher.errors import ArchiveMisbehavesError, ForbiddenError, UrlRefusedError
from fetcher.transports.documents import LONGEST_ANSWER, parsed
from fetcher.transports.http import HttpClient
from fetcher.transports.replies import Reply

_COOKIE = re.compile(r"\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?P<value>[^;\s]*)")
_HINT = "an operator sets EMPORTER_IDR_USER and EMPORTER_IDR_PASSWORD, and EMPORTER_IDR_SERVER where there are several"


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks. `server`: id of one of the servers behind the address; None: the first it offers."""

    user: str
    password: SecretStr
    server: int | None = None
    over_http: bool = False
    """Whether the password may travel where others can read it: inside one's own network."""


class Session:
    """One login at `base`, shared by all who ask there."""

    def __init__(self, client: HttpClient, base: str, login: Login) -> None:
        self._client = client
        self._base = base
        self._login = login
        self._headers: dict[str, str] | None = None
        self._turn = asyncio.Lock()

    async def headers(self) -> Mapping[str, str]:
        """What goes with every request. Raises ForbiddenError where the login is refused, and what HttpClient raises."""
        async with self._turn:
            if self._headers is None:
                self._headers = await self._logged_in()
            return self._headers

    async def renewed(self, spent: Mapping[str, str]) -> Mapping[str, str]:
        """The same after `spent` was refused: another login, unless somebody else made one meanwhile."""
        async with self._turn:
            if self._headers is spent:
                self._headers = None
        return await self.headers()

    async def _logged_in(self) -> dict[str, str]:
        if not (self._base.startswith("https:") or self._login.over_http):
            raise UrlRefusedError(f"{self._base}: a password would be sent for everybody to read", hint="give its https address")
        reply, said = await self._json("/api/v0/token/", {})
        token, cookies = said.get("data"), _cookies(reply)
        if reply.status != 200 or not isinstance(token, str):
            raise ArchiveMisbehavesError(f"{reply.url}: gives no token to log in with", hint="is this an OMERO.web?")
        server = self._login.server if self._login.server is not None else await self._first_server(cookies)
        form = {"username": self._login.user, "password": self._login.password.get_secret_value(), "server": server}
        headers = {"X-CSRFToken": token, "Referer": f"{self._base}/", "Cookie": _cookie(cookies)}
        reply, said = await self._json("/api/v0/login/", headers, urlencode(form).encode())
        if reply.status in (400, 401, 403) or said.get("success") is not True:
            raise ForbiddenError(f"{self._base} refuses the login of {self._login.user!r}", hint=_HINT)
        # OMERO.web sends whoever is not logged in to a page for people, unless a script asks.
        return {"Cookie": _cookie(cookies | _cookies(reply)), "X-Requested-With": "XMLHttpRequest"}

    async def _first_server(self, cookies: Mapping[str, str]) -> int:
        reply, said = await self._json("/api/v0/servers/", {"Cookie": _cookie(cookies)})
        servers = said.get("data")
        numbers = [one.get("id") for one in servers if isinstance(one, dict)] if isinstance(servers, list) else []
        first = next((number for number in numbers if isinstance(number, int)), None)
        if first is None:
            raise ArchiveMisbehavesError(f"{reply.url}: names no server to log in to", hint=_HINT)
        return first

    async def _json(self, path: str, headers: Mapping[str, str], form: bytes | None = None) -> tuple[Reply, dict[str, JsonValue]]:
        reply, body = await self._client.exchange(self._base + path, headers, LONGEST_ANSWER, form)
        if reply.status >= 500 or reply.status in (404, 429) or reply.redirect() is not None:
            reply.check()
        return reply, parsed(reply.url, body)


def _cookies(reply: Reply) -> dict[str, str]:
    matches = [_COOKIE.match(text) for text in reply.headers.get_all("Set-Cookie") or []]
    return {match["name"]: match["value"] for match in matches if match}


def _cookie(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())
