"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from probe.disk import strict_json
from probe.errors import OutputError

_TEMPORARY = re.compile(r"\.probe-[0-9a-f]{32}\.part")
"""Names of files that are being written. The long random part makes sure that a file of such a name is ours."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file in the same folder, then rename it; missing folders are created.

    A process that is killed meanwhile leaves the temporary file, which `clear_temporary` removes.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "new" / "note.txt"
    >>> write_atomically(path, lambda file: file.write(b"done"))
    >>> path.read_text()
    'done'

    Args:
        write: called with the open binary file.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _create_temporary(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write plain values, whole or not at all.

    Raises:
        NotFinite: a number among them is NaN or infinite.
        OutputError: the file cannot be written.
    """
    text = strict_json.dump(values, indent=2) + b"\n"
    write_atomically(path, lambda file: file.write(text))


def clear_temporary(folder: Path) -> None:
    """Remove the temporary files that killed processes left directly in a folder. Only for the one process that writes there.

    Raises:
        OutputError: one of them cannot be removed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in (folder / name for name in names if _TEMPORARY.fullmatch(name)):
        try:
            path.unlink()
        except OSError as error:
            raise _cannot_write(path, error) from error


def check_writable(folder: Path) -> None:
    """Check before the work that a folder can be written.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _create_temporary(folder)
        os.close(descriptor)
        temporary.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _create_temporary(folder: Path) -> tuple[int, Path]:
    """A new file, with the mode that the kernel gives to every new file: Python can read the process's umask only by changing it."""
    path = folder / f".probe-{secrets.token_hex(16)}.part"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), path


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}. Name another folder, or make this one writable.")
