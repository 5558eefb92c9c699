"""Which addresses may be opened at all: hosts by name, and every address a name leads to.

A URL in a message is a stranger's wish. The host is checked for every hop of a redirect, the address at each connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from emporter_runtime.addresses import NoSuchHostError, NotPublicError, PublicBackend, is_literal
from emporter_runtime.hosts import host_allowed
from fetcher.errors import HostRefusedError, PrivateAddressError, UnknownHostError, UrlRefusedError

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
_KEPT_IN_URLS = "%/:;,.?&=+@!$'()*~[]|-_"
"""What `quote` leaves alone: `%` among it, since what is quoted already must stay as it is."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL, ready for the wire."""

    url: str
    scheme: str
    host: str


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """Which hosts may be opened: exact names, `*.suffix`, `*`; and whether they may lie in private networks."""

    allowed: tuple[str, ...]
    allow_private: bool = False
    setting: str = "EMPORTER_URL_ALLOWED_HOSTS"
    schemes: tuple[str, ...] = ("http", "https")

    def checked(self, url: str) -> Target:
        """The target of `url`. Raises UrlRefusedError or HostRefusedError."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
            name = host if is_literal(host) else host.encode("idna").decode("ascii")
        except ValueError as error:
            raise UrlRefusedError(f"{url[:200]!r} is no URL: {error}", hint="write it as a browser shows it") from error
        if parts.scheme not in self.schemes:
            known = " and ".join(f"{scheme}://" for scheme in self.schemes)
            raise UrlRefusedError(f"{url[:200]!r}: only {known} are opened", hint="download it and ingest the file")
        if parts.username is not None or parts.password is not None:
            raise UrlRefusedError(
                f"the URL of {host} holds credentials, which would be stored and shown", hint="serve the file without a password"
            )
        if not (is_literal(name) or _NAME.match(name)) or any(c.isspace() or ord(c) < 32 for c in parts.netloc):
            raise UrlRefusedError(f"{url[:200]!r} is no URL", hint="write it as a browser shows it")
        if not self.allows(name):
            raise HostRefusedError(f"host {host} is not allowed here", hint=f"an operator can add it to {self.setting}")
        shown = f"[{name}]" if ":" in name else name
        place = f"{shown}:{port}" if port is not None else shown
        clean = urlunsplit((parts.scheme, place, quote(parts.path or "/", _KEPT_IN_URLS), quote(parts.query, _KEPT_IN_URLS), ""))
        return Target(clean, parts.scheme, name.lower())

    def allows(self, host: str) -> bool:
        """Whether the operator allowed this name."""
        return host_allowed(host, self.allowed)


class GuardedBackend(PublicBackend):
    """The same, saying what is wrong in the fetcher's own errors."""

    async def permitted(self, host: str, port: int, seconds: float | None) -> list[str]:
        """The addresses of `host` that may be connected to. Raises PrivateAddressError, UnknownHostError, ConnectError."""
        try:
            return await super().permitted(host, port, seconds)
        except NotPublicError as error:
            raise PrivateAddressError(
                error.message, hint="for archives inside your own network an operator sets EMPORTER_URL_ALLOW_PRIVATE=true"
            ) from error
        except NoSuchHostError as error:
            raise UnknownHostError(str(error)) from error
