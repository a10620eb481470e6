"""JSON files that carry a hash of their own content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from probe.disk import strict_json
from probe.disk.files import write_atomically
from probe.errors import DamagedStore, StoreMismatch

FORMAT = "probe store"
VERSION = 1
"""The version of docs/store.md."""


def write_checked(path: Path, values: Mapping[str, object]) -> None:
    """Write values with the format, its version, and a hash of them.

    Raises:
        OutputError: the file cannot be written.
    """
    body = {"format": FORMAT, "version": VERSION, **values}
    text = strict_json.dump({**body, "checksum": _checksum(body)}, indent=1) + b"\n"
    write_atomically(path, lambda file: file.write(text))


def read_checked(path: Path) -> dict[str, object]:
    """The values of a file that `write_checked` wrote.

    Raises:
        DamagedStore: it cannot be read, or has another content than its hash is of.
        StoreMismatch: it is of another format, or of another version of it.
    """
    try:
        values = strict_json.load(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedStore(f"{str(path)!r} cannot be read: {error}. Get the file again, or collect anew.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise StoreMismatch(f"{str(path)!r} is not of a {FORMAT}. Name a folder that probe.collect() wrote.")
    if values.get("version") != VERSION:
        raise StoreMismatch(
            f"{str(path)!r} is of version {values.get('version')} of the store's format; this probe reads version {VERSION}. "
            "Open it with the probe that wrote it, or collect anew."
        )
    known = values.pop("checksum", None)
    if known != _checksum(values):
        raise DamagedStore(f"{str(path)!r} does not have the content that was written. Get the file again, or collect anew.")
    return values


def _checksum(values: Mapping[str, object]) -> str:
    return hashlib.sha256(strict_json.dump(values)).hexdigest()
