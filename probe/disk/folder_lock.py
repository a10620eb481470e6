"""The lock of a folder: one run at a time writes into it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.errors import OutputError, RunLocked

LOCK = ".probe-lock"
PATIENCE = 10.0
"""Seconds that a run waits for the lock. The workers of a killed run are killed with it, but hold the lock until the kernel has freed
their memory, which takes seconds for models of many gigabytes on a GPU; without PR_SET_PDEATHSIG, until an import lets them notice."""


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[int]:
    """Lock a folder for one run.

    The lock belongs to an open file: it is released when the last process that holds the file ends.

    Args:
        name: of the lock's file: runs with different ones may work side by side.

    Yields:
        the descriptor of the lock, for worker processes to hold as well.

    Raises:
        RunLocked: another run holds it.
        OutputError: the folder cannot be written, or has a file of the lock's name that is none.
    """
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(f"{str(path)!r} cannot be written: {reason}. Name another folder.") from error
    try:
        _take(descriptor, path)
        _check_is_lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RunLocked(
                    f"Another run works in {str(path.parent)!r} (process {path.read_text() or 'unknown'}). "
                    "Wait for it or end it; or name another folder."
                ) from error
        time.sleep(0.05)


def _check_is_lock(descriptor: int, path: Path) -> None:
    """Refuse to write into somebody else's file of this name."""
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_file or re.fullmatch(rb"\d{0,20}", os.pread(descriptor, 21, 0)) is None:
        raise OutputError(f"{str(path)!r} should be the lock of a run, and is another file. Move it, or name another folder with --out.")
