"""Signed, expiring path prefixes, `/s/<link>/…`: for tools that send no headers.

A link is `eml1.<payload>.<mac>`. The payload is JSON in base64url: `v` the volumes (`VOLUME@rN`), `e` when it ends (seconds since
1970), `b` bytes and seconds of a budget, `t` the id of the token that made it: revoking the token ends its links. The mac is
HMAC-SHA-256 (RFC 2104) of the version and the payload, in base64url without padding (RFC 4648 section 5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import AccessSettingsError, Budget, Entry, LinkRefusedError, Scope

PREFIX = "/s/"
VERSION = "eml1"
MOST_VOLUMES = 32
"""Of one link: an image and what belongs to it. Its address stays in what every tool takes."""
SHORTEST_SECRET = 32
"""Characters of a secret: as many random bits as the mac has, if they are hex digits, half."""
REMEMBERED = 1024
"""Links that were found good and need not be computed again; one is read with thousands of requests."""
_LINK = re.compile(rf"{VERSION}\.(?P<payload>[A-Za-z0-9_-]{{1,8192}})\.(?P<mac>[A-Za-z0-9_-]{{43}})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
    """What a link allows, and until when. `token` is the id of the token that made it, or empty: made by who has the secret."""

    volumes: tuple[VolumeRef, ...]
    expires: int
    token: str = ""
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.volumes) <= MOST_VOLUMES:
            raise InvalidValueError(f"a link names 1 to {MOST_VOLUMES} volumes, not {len(self.volumes)}", hint="make several")
        if any(ref.revision is None for ref in self.volumes):
            raise InvalidValueError("a link names revisions: VOLUME@rN", hint="ask /v1/volumes/VOLUME for the current one")

    @property
    def scope(self) -> Scope:
        return tuple(Entry(ref.volume, ref.revision) for ref in self.volumes)


class LinkKeys:
    """Secrets: the first signs, all of them verify, so that one can be replaced while links of the one before still hold."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises AccessSettingsError."""
        if not secrets or any(len(secret) < SHORTEST_SECRET for secret in secrets):
            raise AccessSettingsError(
                f"EMPORTER_LINK_SECRET_KEY is shorter than {SHORTEST_SECRET} characters",
                hint="make one: python3 -c 'import secrets; print(secrets.token_hex(32))'",
            )
        self._secrets = [secret.encode() for secret in secrets]
        self.read = lru_cache(REMEMBERED)(self._read)

    @classmethod
    def parse(cls, text: str) -> LinkKeys:
        """Secrets with commas between them. Raises AccessSettingsError."""
        return cls([part.strip() for part in text.split(",") if part.strip()])

    def sign(self, link: Link) -> str:
        """The text of a link."""
        payload = _text(_payload(link))
        return f"{VERSION}.{payload}.{_mac(self._secrets[0], payload)}"

    def _read(self, text: str) -> Link:
        """What a link says, if it was signed here; whether its time is over is not looked at. Raises LinkRefusedError."""
        match = _LINK.match(text)
        # Whole texts are compared: base64 has several spellings of the same bytes.
        macs = [_mac(secret, match["payload"]) for secret in self._secrets] if match else []
        if match is None or not any([hmac.compare_digest(mac, match["mac"]) for mac in macs]):  # noqa: C419  # all, in equal time
            raise LinkRefusedError(
                "this link was not signed here, or was changed", hint="copy all of it, or have a new one made: emporter link"
            )
        return _link(match["payload"])


def _mac(secret: bytes, payload: str) -> str:
    return _text(hmac.new(secret, f"{VERSION}.{payload}".encode(), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _payload(link: Link) -> bytes:
    body: dict[str, object] = {"v": [str(ref) for ref in link.volumes], "e": link.expires}
    if link.token:
        body["t"] = link.token
    if link.budget is not None:
        body["b"] = [link.budget.bytes, link.budget.seconds]
    return json.dumps(body, separators=(",", ":")).encode()


def _link(payload: str) -> Link:
    try:
        body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        budget = Budget(bytes=body["b"][0], seconds=body["b"][1]) if "b" in body else None
        return Link(tuple(VolumeRef.parse(text) for text in body["v"]), int(body["e"]), body.get("t", ""), budget)
    except (binascii.Error, ValueError, KeyError, IndexError, TypeError, ValidationError) as error:
        # Signed here, and yet not understood: by another release.
        raise LinkRefusedError("this link is of another release", hint="have a new one made: emporter link") from error
