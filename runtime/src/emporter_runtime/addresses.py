"""Which addresses are out on the internet, and connections to those only.

For whatever opens an address a stranger named. The check is made where the connection is made, so that no name can lead to one
address when it is looked at and to another when it is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

from emporter_runtime.errors import PermanentError


class NotPublicError(PermanentError):
    """A name or address that leads into a private network."""

    code = "private_address"


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


class PublicBackend(httpcore.AsyncNetworkBackend):
    """For httpcore's pools: connects to public addresses only, and to the very address that was checked."""

    def __init__(self) -> None:
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await _resolved(host, port, timeout)
        public = [a for a in addresses if is_public(a)]
        if addresses and not public:
            raise NotPublicError(f"{host} leads to {addresses[0]}, which is no public address")
        failure: Exception | None = None
        for address in public:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise NotPublicError(f"{path} is no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _resolved(host: str, port: int, seconds: float | None) -> list[str]:
    try:
        async with asyncio.timeout(seconds):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(f"{host} was not resolved within {seconds} s") from error
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} was not resolved: {error}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
