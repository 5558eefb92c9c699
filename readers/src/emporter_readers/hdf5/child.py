"""The process that reads the structure of HDF5 files for another. It opens nothing: every byte it sees it asks for.

Run as `python -m emporter_readers.hdf5.child`, frames on standard input and output.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import dataclass

from emporter_readers.errors import CorruptObjectError, ReaderError
from emporter_readers.hdf5.dataset import told
from emporter_readers.hdf5.frames import RANGE, BrokenConversationError, Kind, receive, send
from emporter_readers.hdf5.structure import find_dataset

CPU_SECONDS = 30.0
"""Of one file. Where four million chunks lie takes ten; what takes longer runs in circles."""
MEMORY_BYTES = 2 * 2**30
"""Address space, of which Python and the libraries take a quarter."""


@dataclass(frozen=True, slots=True)
class AskingSource:
    """A ByteSource whose bytes the other process reads."""

    name: str
    size: int
    incoming: int
    outgoing: int

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self.size:
            raise CorruptObjectError(f"{self.name}: ends at byte {self.size}, needed up to {stop}")
        send(self.outgoing, Kind.READ, RANGE.pack(start, stop), None)
        frame = receive(self.incoming, None)
        if frame.kind != Kind.DATA or len(frame.content) != stop - start:
            raise BrokenConversationError("it sends something else")
        return frame.content


def main() -> None:
    """Answer queries until nobody asks any more."""
    incoming, outgoing = os.dup(0), os.dup(1)
    silent = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(silent, fd)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        while True:
            _answer(incoming, outgoing)
    except BrokenConversationError:
        return


def _answer(incoming: int, outgoing: int) -> None:
    frame = receive(incoming, None)
    if frame.kind != Kind.QUERY:
        raise BrokenConversationError("it asks nothing")
    query = json.loads(frame.content)
    source = AskingSource(query["name"], query["size"], incoming, outgoing)
    # The signal's own action ends the process, even inside the library.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        words, numbers = told(find_dataset(source, query["path"]))
    except ReaderError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        said = {"code": error.code, "message": error.message, "hint": error.hint}
        send(outgoing, Kind.ERROR, json.dumps(said).encode(), None)
        return
    signal.setitimer(signal.ITIMER_PROF, 0)
    send(outgoing, Kind.ANSWER, words, None)
    send(outgoing, Kind.NUMBERS, numbers, None)


if __name__ == "__main__":
    main()
