"""Which addresses are out on the internet, and connections to those only.

For whatever opens an address a stranger named. The check is made where the connection is made, so that no name can lead to one
address when it is looked at and to another when it is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore

from emporter_runtime.errors import PermanentError

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses."""


class NotPublicError(PermanentError):
    """A name or address that leads into a private network."""

    code = "private_address"


class NoSuchHostError(httpcore.ConnectError):
    """There is no such name; while a resolver is away, every name looks like this."""


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


def is_literal(host: str) -> bool:
    """Whether a host is an address already."""
    try:
        ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return False
    return True


class PublicBackend(httpcore.AsyncNetworkBackend):
    """For httpcore's pools: to public addresses only, unless told otherwise, and to the very address that was checked."""

    def __init__(self, *, allow_private: bool = False, resolve: Resolve | None = None) -> None:
        self._allow_private = allow_private
        self._resolve = resolve or resolved
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
        raise NotPublicError(f"{path} is no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def permitted(self, host: str, port: int, seconds: float | None) -> list[str]:
        """The addresses of `host` that may be connected to. Raises NotPublicError, NoSuchHostError, httpcore's errors."""
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not resolved within {seconds} s") from error
        permitted = [a for a in addresses if self._allow_private or is_public(a)]
        if addresses and not permitted:
            raise NotPublicError(f"{host} leads to {addresses[0]}, which is no public address")
        return permitted


async def resolved(host: str, port: int) -> list[str]:
    """The addresses of a name, by the machine's resolver. Raises NoSuchHostError, httpcore.ConnectError."""
    if is_literal(host):
        return [host]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise NoSuchHostError(f"there is no host {host}") from error
        raise httpcore.ConnectError(f"{host} was not resolved: {error}") from error
    except UnicodeError as error:
        raise NoSuchHostError(f"there is no host {host}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
