"""Run a command that ends when its parent does, even on `kill -9` of the parent.

    python -I -S shim.py deathsig PARENT COMMAND…    Linux: the kernel kills us when the parent dies; this becomes the command
    python -I -S shim.py pipe PARENT COMMAND…        elsewhere: this stays, runs the command, and watches standard input, the
                                                     far end of which only the parent holds

Standard library only, and no package of ours: it runs before every process of the stack.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
"""Of prctl(2), <linux/prctl.h>."""
ORPHANED = 70
"""Exit status where the parent was gone before the command could start."""


def main(arguments: list[str]) -> int:
    """Becomes the command, or returns its exit status."""
    how, parent, command = arguments[0], int(arguments[1]), arguments[2:]
    if how == "deathsig":
        if not _ask_for_death_signal(parent):
            return ORPHANED
        os.execv(command[0], command)  # noqa: S606  # no shell wanted
    return _under_watch(parent, command)


def _ask_for_death_signal(parent: int) -> bool:
    """Whether the signal is sure to come."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"prctl: {os.strerror(ctypes.get_errno())}\n")
        return False
    # A parent that died before the call above sends no signal any more; then somebody else is our parent by now.
    return os.getppid() == parent


def _under_watch(parent: int, command: list[str]) -> int:
    lifeline = os.dup(0)
    os.set_inheritable(lifeline, False)
    quiet = os.open(os.devnull, os.O_RDONLY)
    os.dup2(quiet, 0)
    child = os.fork()
    if child == 0:
        os.execv(command[0], command)  # noqa: S606
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    threading.Thread(target=_kill_at_end, args=(lifeline,), daemon=True).start()
    if os.getppid() != parent:
        _kill_group()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _kill_at_end(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    _kill_group()


def _kill_group() -> None:
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
