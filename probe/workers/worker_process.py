"""The first code of a worker process: it ties the process to the run that started it, and only then imports the program.

A file of its own, run by its path, so that nothing of `fseg`, and no torch, is imported before that: a run that was killed during
these seconds would leave processes behind that hold the lock of its folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from multiprocessing import process, spawn
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with(parent: int, life: int) -> None:
    """Make this process end when the one that started it ends, in whatever way.

    Linux kills it at that moment. Other systems have only the pipe, which comes late where an import holds the interpreter.

    Args:
        parent: the process that started this one. It may have ended since.
        life: the reading end of a pipe whose other end only the parent holds; nothing is ever written into it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_wait_for_the_end, args=(life,), daemon=True).start()


def _wait_for_the_end(life: int) -> None:
    os.read(life, 1)
    os._exit(1)


def main(pipe: Connection) -> None:
    """Import the main module of the program, as `multiprocessing` does it, and call the function that was sent, with its arguments."""
    this: Any = process.current_process()
    this._inheriting = True  # a main module that starts workers without a guard would go on for ever: with this it is an error
    spawn.prepare(pipe.recv())
    function, arguments = pipe.recv()
    del this._inheriting
    function(pipe, *arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that started this process hears it, and ends this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with(int(sys.argv[2]), int(sys.argv[3]))
    main(Connection(int(sys.argv[1])))
