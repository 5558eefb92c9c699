"""An OMERO.web that answers nobody without a session: token, servers, login, cookies, and what it says once a session has run out."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from emporter_archives.server import File, FileServer

_COOKIE = re.compile(r"(\w+)=([^;\s]*)")


class PrivateOmero(FileServer):
    """Use it as a context manager; `omero.serve` puts images on it. The folder of files is open, as public ones are."""

    def __init__(self, user: str, password: str, server: int = 3) -> None:
        super().__init__()
        self.sessions: set[str] = set()
        """Those who are logged in; clear it, and nobody is."""
        self.logins = 0
        self._user = {"username": user, "password": password, "server": str(server)}
        self._token = ""

    async def _answer(self, answer: Any) -> None:
        cookies = dict(_COOKIE.findall(answer.headers.get("cookie", "")))
        if answer.path == "/api/v0/token/":
            self._token = secrets.token_hex(16)
            await self._say(answer, {"data": self._token}, {"Set-Cookie": f"csrftoken={self._token}; Path=/; SameSite=Lax"})
        elif answer.path == "/api/v0/servers/":
            servers = [{"id": int(self._user["server"]), "host": "localhost", "server": "omero", "port": 4064}]
            await self._say(answer, {"data": servers})
        elif answer.path == "/api/v0/login/":
            await self._login(answer, cookies)
        elif answer.path.startswith(("/api/", "/web")) and cookies.get("sessionid") not in self.sessions:
            script = answer.headers.get("x-requested-with") == "XMLHttpRequest"
            await answer.status(403 if script else 302, {} if script else {"Location": "/webclient/login/?url=%2F"})
        else:
            await super()._answer(answer)

    async def _login(self, answer: Any, cookies: dict[str, str]) -> None:
        form = await answer.form()
        known = cookies.get("csrftoken") == self._token == answer.headers.get("x-csrftoken")
        if not known or not answer.headers.get("referer", "").startswith(self.url("/")):
            await answer.status(403, {})
        elif form != self._user:
            await self._say(
                answer, {"message": "Connection not available, please check your user name and password."}, status=403
            )
        else:
            self.logins += 1
            session = secrets.token_hex(16)
            self.sessions.add(session)
            both = f"sessionid={session}; HttpOnly; Path=/\r\nSet-Cookie: csrftoken={secrets.token_hex(16)}; Path=/"
            await self._say(answer, {"success": True, "eventContext": {"userName": form["username"]}}, {"Set-Cookie": both})

    async def _say(self, answer: Any, said: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        body = json.dumps(said).encode()
        file = File(
            body, None, None, ranges=False, headers={"Content-Type": "application/json", **(headers or {})}, status=status
        )
        await answer.file(file, None)
