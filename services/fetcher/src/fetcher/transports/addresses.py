"""Which addresses may be opened at all: hosts by name, and every address a name leads to.

A URL in a message is a stranger's wish. The host is checked for every hop of a redirect, and the address where the
connection is made, so that no name can lead to one address when it is looked at and to another when it is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpcore

from fetcher.errors import HostRefusedError, PrivateAddressError, UnknownHostError, UrlRefusedError

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses."""

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
            name = host if _is_literal(host) else host.encode("idna").decode("ascii")
        except ValueError as error:
            raise UrlRefusedError(f"{url[:200]!r} is no URL: {error}", hint="write it as a browser shows it") from error
        if parts.scheme not in self.schemes:
            known = " and ".join(f"{scheme}://" for scheme in self.schemes)
            raise UrlRefusedError(f"{url[:200]!r}: only {known} are opened", hint="download it and ingest the file")
        if parts.username is not None or parts.password is not None:
            raise UrlRefusedError(
                f"the URL of {host} holds credentials, which would be stored and shown", hint="serve the file without a password"
            )
        if not (_is_literal(name) or _NAME.match(name)) or any(c.isspace() or ord(c) < 32 for c in parts.netloc):
            raise UrlRefusedError(f"{url[:200]!r} is no URL", hint="write it as a browser shows it")
        if not self.allows(name):
            raise HostRefusedError(f"host {host} is not allowed here", hint=f"an operator can add it to {self.setting}")
        shown = f"[{name}]" if ":" in name else name
        place = f"{shown}:{port}" if port is not None else shown
        clean = urlunsplit((parts.scheme, place, quote(parts.path or "/", _KEPT_IN_URLS), quote(parts.query, _KEPT_IN_URLS), ""))
        return Target(clean, parts.scheme, name.lower())

    def allows(self, host: str) -> bool:
        """Whether the operator allowed this name."""
        name = host.lower()
        return any(
            pattern == "*" or name == pattern.lower() or (pattern.startswith("*.") and name.endswith(pattern[1:].lower()))
            for pattern in self.allowed
        )


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only, unless told otherwise; the name is resolved here, once for each connection."""

    def __init__(self, *, allow_private: bool, resolve: Resolve | None = None) -> None:
        self._allow_private = allow_private
        self._resolve = resolve or _resolved
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self.permitted(host, port, timeout):
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise UrlRefusedError(f"{path} is no archive")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def permitted(self, host: str, port: int, seconds: float | None) -> list[str]:
        """The addresses of `host` that may be connected to. Raises PrivateAddressError, UnknownHostError, ConnectError."""
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not resolved within {seconds} s") from error
        public = [a for a in addresses if self._allow_private or is_public(a)]
        if addresses and not public:
            raise PrivateAddressError(
                f"{host} leads to {addresses[0]}, which is no public address",
                hint="for archives inside your own network an operator sets EMPORTER_URL_ALLOW_PRIVATE=true",
            )
        return public


def is_public(address: str) -> bool:
    """Whether an address is out on the internet, also where IPv6 wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64(ip)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """RFC 6052: the well-known prefix, with the IPv4 address in the last 32 bits."""
    if ip not in ipaddress.IPv6Network("64:ff9b::/96"):
        return None
    return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return False
    return True


async def _resolved(host: str, port: int) -> list[str]:
    if _is_literal(host):
        return [host]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise UnknownHostError(f"there is no host {host}") from error
        raise httpcore.ConnectError(f"{host} was not resolved: {error}") from error
    except UnicodeError as error:
        raise UnknownHostError(f"there is no host {host}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
