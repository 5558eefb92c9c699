"""The gate before a service's routes: who is let in, through which door, and how much they take with them. Plain ASGI."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emporter_runtime.access import (
    EVERYTHING,
    AccessError,
    AccessSettingsError,
    BudgetSpentError,
    ForbiddenError,
    Grant,
    LinkExpiredError,
    LinkRefusedError,
    NotAdmittedError,
    Purse,
)
from emporter_runtime.access_links import PREFIX, LinkKeys
from emporter_runtime.access_tokens import Token, Tokens
from emporter_runtime.problems import problem_of

Mode = Literal["auto", "open", "required"]
Clock = Callable[[], float]

GRANT = "emporter_grant"
"""Where in the scope of a request its Grant stands."""
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by what starts and watches processes; they tell whether the service is well and nothing else."""
METRICS = "/metrics"
POLICY_VIOLATION = 1008
"""RFC 6455, 7.4.1."""
KEPT = 16_384
"""Purses of past periods are thrown away above so many."""
_ASK = "send Authorization: Bearer TOKEN (clients of Emporter: EMPORTER_TOKEN), or take a signed link"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Meter:
    """Bytes of answers, by purse and period. Counted by each process for itself, from its start."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[int, int]] = {}
        """By the name of a purse: when its period ends, and what was taken in it."""

    def check(self, purses: tuple[Purse, ...]) -> None:
        """Raises BudgetSpentError where one has nothing left."""
        for purse in purses:
            ends, spent = self._spent.get(purse.name, (0, 0))
            now = self._clock()
            if now < ends and spent >= purse.budget.bytes:
                raise BudgetSpentError(f"the budget of {purse.budget} is spent", retry_after=max(1, math.ceil(ends - now)))

    def count(self, purses: tuple[Purse, ...], number: int) -> None:
        """Take bytes out of purses, or put some back."""
        now = self._clock()
        for purse in purses:
            ends, spent = self._spent.get(purse.name, (0, 0))
            if ends <= now:
                ends, spent = (int(now // purse.budget.seconds) + 1) * purse.budget.seconds, 0
            self._spent[purse.name] = (ends, max(0, spent + number))
        if len(self._spent) > KEPT:
            self._spent = {name: (ends, spent) for name, (ends, spent) in self._spent.items() if now < ends}


class Access:
    """Tokens and keys of one service. `demanded`: without one of them nothing is read."""

    def __init__(self, tokens: Tokens | None, keys: LinkKeys | None, *, demanded: bool, clock: Clock = time.time) -> None:
        self.tokens = tokens
        self.keys = keys
        self.demanded = demanded
        self.clock = clock
        self.meter = Meter(clock)
        self._grants: dict[str, tuple[Token, Grant]] = {}

    @classmethod
    def of(cls, mode: Mode, host: str, file: Path | None, secret: str) -> Access | None:
        """What the settings say; None where nothing is demanded and no link can be made. Raises AccessSettingsError.

        Elsewhere than on loopback a service is open only to who says so.
        """
        told = file is not None or bool(secret)
        if mode != "open" and not told and (mode == "required" or not is_loopback(host)):
            raise AccessSettingsError(
                f"others can reach this service on {host or 'every address'}, and nothing says who may read",
                hint="make a token: emporter token new --file FILE --volumes '*', set EMPORTER_ACCESS_FILE=FILE and, for links, "
                "EMPORTER_LINK_SECRET_KEY; or say EMPORTER_ACCESS=open where everybody may read everything",
            )
        if not told:
            return None
        return cls(Tokens(file) if file else None, LinkKeys.parse(secret) if secret else None, demanded=mode != "open")

    def by_header(self, header: str | None) -> Grant:
        """What an Authorization header grants. Raises NotAdmittedError."""
        if not self.demanded:
            return EVERYTHING
        text = _bearer(header)
        if not text:
            raise NotAdmittedError("this needs a token, or a signed link", hint=_ASK, given=False)
        token = self.tokens.known(text) if self.tokens else None
        if token is None:
            raise NotAdmittedError("this token is not known here", hint="ask the operator for a new one", given=True)
        if not token.alive(self.clock()):
            raise NotAdmittedError(f"token {token.id} has expired", hint="ask the operator for a new one", given=True)
        return self._of_token(token)

    def by_link(self, text: str) -> Grant:
        """What the text of a link grants. Raises LinkRefusedError, LinkExpiredError."""
        if self.keys is None:
            raise LinkRefusedError("this server signs no links", hint="ask for it without /s/…, with a token")
        link = self.keys.read(text)
        if self.clock() >= link.expires:
            raise LinkExpiredError("this link has expired", hint="have a new one made: emporter link VOLUME --expires 7d")
        own = (Purse(text[-43:], link.budget),) if link.budget else ()
        if not link.token:
            return Grant("link", (link.scope,), own, linked=True, expires=link.expires)
        token = self.tokens.find(link.token) if self.tokens else None
        if token is None or not token.alive(self.clock()):
            raise LinkRefusedError("the token that made this link was revoked", hint="have a new one made: emporter link")
        behind = self._of_token(token)
        scopes = (link.scope, *behind.scopes)
        return Grant(f"link of {token.id}", scopes, own + behind.purses, linked=True, expires=link.expires, token=token.id)

    def _of_token(self, token: Token) -> Grant:
        """Made once for each token: a block from the cache takes ten times as long, and should."""
        kept = self._grants.get(token.id)
        if kept is None or kept[0] is not token:
            kept = self._grants[token.id] = (token, _grant_of(token))
        return kept[1]


def _grant_of(token: Token) -> Grant:
    """What a token may read, by itself."""
    purses = (Purse(token.id, token.budget),) if token.budget else ()
    expires = token.expires_at.timestamp() if token.expires_at else math.inf
    return Grant(token.id, (token.scope,), purses, metrics=token.metrics, expires=expires, token=token.id)


class Gate:
    """Lets in who may come in, writes what they may do into the scope, and makes a link's prefix the root of what they see."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no websockets; one that is added needs a gate first.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            grant = self._admitted(scope)
        except AccessError as error:
            await problem_of(error, error.status, {"cache-control": "no-store"} | error.headers)(scope, receive, send)
            return
        scope[GRANT] = grant
        going = _Going(send, self._access.meter, () if scope["method"] == "HEAD" else grant.purses)
        try:
            await self._app(scope, receive, going)
        finally:
            going.settle()

    def _admitted(self, scope: Scope) -> Grant:
        path: str = scope["path"]
        if path.startswith(PREFIX):
            text, _, path = path.removeprefix(PREFIX).partition("/")
            grant = self._access.by_link(text)
            if f"/{path}".startswith(PREFIX):
                raise LinkRefusedError("a link stands inside a link", hint="use one of them")
            # In place: who measures requests around this looks into the same scope.
            scope["root_path"] = PREFIX + text
            path = f"/{path}"
        else:
            grant = self._access.by_header(_header(scope, b"authorization"))
        if path == METRICS and not grant.metrics:
            raise ForbiddenError("this token does not read metrics", hint="emporter token new --metrics makes one that does")
        self._access.meter.check(grant.purses)
        return grant


class _Going:
    """An answer on its way out: counted, and kept by nobody on the way who would give it to others.

    What it says it will be is counted at once, so that many at a time can't all begin on the last byte; what was not sent is
    put back.
    """

    def __init__(self, send: Send, meter: Meter, purses: tuple[Purse, ...]) -> None:
        self._send = send
        self._meter = meter
        self._purses = purses
        self._counted = 0
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            message["headers"] = headers.raw
            if "public" in headers.get("cache-control", ""):
                headers["cache-control"] = headers["cache-control"].replace("public", "private")
            headers["referrer-policy"] = "same-origin"  # an address may hold a link
            self._count(int(headers.get("content-length", "0")))
        elif message["type"] == "http.response.body":
            self._sent += len(message.get("body", b""))
            self._count(max(0, self._sent - self._counted))
        await self._send(message)

    def settle(self) -> None:
        """Put back what was not sent after all."""
        if self._purses:
            self._count(self._sent - self._counted)

    def _count(self, number: int) -> None:
        if self._purses and number:
            self._counted += number
            self._meter.count(self._purses, number)


def bearer_of(scope: Scope) -> str:
    """The bearer token a request brings; empty where it brings none."""
    return _bearer(_header(scope, b"authorization"))


def _bearer(header: str | None) -> str:
    kind, _, text = (header or "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else ""


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
