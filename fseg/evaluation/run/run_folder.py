"""The folder of a run: the check that it is one, its lock, and its JSON files."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fseg import strict_json
from fseg.errors import OutputError, RunLocked, RunMismatch
from fseg.evaluation.run.manifest import MANIFEST
from fseg.evaluation.run.record_files import FOLDER
from fseg.files import write_atomically

LOCK = ".fseg-lock"
PATIENCE = 10.0
"""Seconds that a run waits for the lock. The workers of a killed run are killed with it, but hold the lock until the kernel has freed
their memory, which takes seconds for models of many gigabytes on a GPU; without PR_SET_PDEATHSIG, until an import lets them notice."""

_HIDDEN = re.compile(r"\.fseg-.+")
"""What a run that was killed before it had a manifest leaves behind: hidden files with our prefix."""


def check_ours(folder: Path) -> None:
    """Check that a folder is a run's, or free for one. Writes nothing.

    Raises:
        OutputError: there is a file of this name, or the folder cannot be read.
        RunMismatch: the folder holds other files, or records without the manifest that says what they are of.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be written: {error.strerror or error}. Name a new folder with --out.") from error
    foreign = [name for name in names if _HIDDEN.fullmatch(name) is None]
    if MANIFEST in names or not foreign:
        return
    if any((folder / FOLDER).glob("*.jsonl")):
        raise RunMismatch(
            f"{str(folder)!r} holds {FOLDER}/*.jsonl and no {MANIFEST}, which says what they are of. "
            "Put the manifest back, or name another folder with --out."
        )
    shown = ", ".join(map(repr, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
    raise RunMismatch(f"{str(folder)!r} is no folder of a run: it holds {shown}. Name a new or empty folder with --out.")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock a folder for one run.

    The lock belongs to an open file: it is released when the last process that holds the file ends.

    Yields:
        the descriptor of the lock, for worker processes to hold as well.

    Raises:
        RunLocked: another run holds it.
        OutputError: the folder cannot be written, or has a file of the lock's name that is none.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(f"{str(path)!r} cannot be written: {reason}. Name another folder with --out.") from error
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
                    "Wait for it or end it; or name another folder with --out."
                ) from error
        time.sleep(0.05)


def _check_is_lock(descriptor: int, path: Path) -> None:
    """Refuse to write into somebody else's file of this name."""
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_file or re.fullmatch(rb"\d{0,20}", os.pread(descriptor, 21, 0)) is None:
        raise OutputError(f"{str(path)!r} should be the lock of a run, and is another file. Move it, or name another folder with --out.")


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write plain values, whole or not at all.

    Raises:
        NotFinite: a number among them is NaN or infinite.
        OutputError: the file cannot be written.
    """
    text = strict_json.dump(values, indent=2) + b"\n"
    write_atomically(path, lambda file: file.write(text))
