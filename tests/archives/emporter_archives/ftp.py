"""An anonymous FTP server on loopback over a folder, in a thread of its own: it counts what it sends, and misbehaves on demand."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections import deque
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from emporter_archives.server import LAST_MODIFIED

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it stands on asyncore, which Python 3.12 gave to a package of its own
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import DTPHandler, FTPHandler
    from pyftpdlib.ioloop import IOLoop
    from pyftpdlib.servers import FTPServer


# With a handler of its own the library does not print every command of every session.
logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())


class FtpArchive:
    """Use it as a context manager. `put` writes a file below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands: list[str] = []
        """Every command as it came, such as `REST 1000`."""
        self.sent = 0
        """Bytes over data connections."""
        self.drops: deque[int] = deque()
        """Each ends one transfer after so many bytes, the connection with it."""
        self.stalls: deque[int] = deque()
        """Each stops one transfer after so many bytes, and keeps the connection open."""
        self.crowded = 0
        """Connections that are sent away with 421."""
        self.without: set[str] = set()
        """Commands this server does not know."""
        self.pretended_address: str | None = None
        """What PASV answers instead of the truth."""
        self._loop = IOLoop()
        self._server = FTPServer(("127.0.0.1", 0), _handler_of(self), ioloop=self._loop)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ftp", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every connection and listen no more; harmless when repeated."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._loop.close()

    def put(self, path: str, data: bytes, modified: str = LAST_MODIFIED) -> str:
        """Write a file of a certain time; its URL."""
        place = self.folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        when = parsedate_to_datetime(modified).timestamp()
        os.utime(place, (when, when))
        return self.url(path)

    def url(self, path: str = "/") -> str:
        return f"ftp://127.0.0.1:{self._server.address[1]}/{quote(path.lstrip('/'))}"

    def asked(self, verb: str) -> list[str]:
        """The commands of one kind."""
        return [command for command in self.commands if command.split(" ")[0] == verb]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._loop.loop(timeout=0.02, blocking=False)
        self._server.close_all()


def _handler_of(archive: FtpArchive) -> type[FTPHandler]:
    class Data(DTPHandler):  # type: ignore[misc]
        """Counts, and ends where it was told to."""

        ac_out_buffer_size = 16 * 1024

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._begun = archive.sent
            self._limit = archive.drops.popleft() if archive.drops else None
            self._stall = archive.stalls.popleft() if archive.stalls else None

        def send(self, data: bytes) -> int:
            sent = self.tot_bytes_sent
            if self._limit is not None and sent >= self._limit:
                self.cmd_channel.close()
                return 0
            if self._stall is not None and sent >= self._stall:
                return 0
            room = [limit - sent for limit in (self._limit, self._stall) if limit is not None]
            number: int = super().send(data[: min(room)] if room else data)
            archive.sent += number
            return number

    class Handler(FTPHandler):  # type: ignore[misc]
        authorizer = DummyAuthorizer()
        dtp_handler = Data
        use_gmt_times = True
        use_sendfile = False
        timeout = None

        def on_connect(self) -> None:
            if archive.crowded:
                archive.crowded -= 1
                self.respond("421 Too many users, try again later.")
                self.close_when_done()

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            archive.commands.append(line.strip())
            if cmd in archive.without:
                self.respond(f"500 Command {cmd} not understood.")
                return
            self.masquerade_address = archive.pretended_address
            super().pre_process_command(line, cmd, arg)

    Handler.authorizer.add_anonymous(str(archive.folder))
    return Handler
