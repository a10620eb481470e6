"""The folder of a run: its lock, its manifest, and what to say when either does not fit."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fseg.errors import OutputError, RunLocked, RunMismatch
from fseg.files import write_atomically

MANIFEST = "manifest.json"
PATIENCE = 2.0
"""Seconds in which the workers of a killed run end; they keep its lock until then."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a folder for one run. The lock belongs to an open file, so it is gone when the last process that holds it is.

    Yields:
        the descriptor of the lock, for worker processes to hold as well.

    Raises:
        RunLocked: another run holds it.
        OutputError: the folder cannot be written.
    """
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}. Name another place with --out.") from error
    try:
        _take(descriptor, path)
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
                    "Wait for it or end it; or name another place with --out."
                ) from error
        time.sleep(0.05)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's run is of; None for a folder without one.

    Raises:
        RunMismatch: the file there is no manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunMismatch(f"{str(path)!r} is no manifest of a run: {error}. Name another place with --out.") from error
    return manifest


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def check_same(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A run goes on only as what it was.

    Raises:
        RunMismatch: the manifest of the folder says something else; the message shows the differences.
    """
    differing = differences(there, json.loads(json.dumps(asked)))
    if differing:
        shown = "".join(f"\n  {line}" for line in differing[:8]) + ("\n  ..." if len(differing) > 8 else "")
        raise RunMismatch(
            f"{str(folder)!r} holds another run, in which {len(differing)} things differ:{shown}\nStart this one in a folder of its own (--out)."
        )


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What two manifests say differently, one line a key."""
    first, second = _flat(there), _flat(asked)
    keys = [key for key in {**first, **second} if first.get(key, "nothing") != second.get(key, "nothing")]
    return [f"{key}: {_shown(first.get(key, 'nothing'))} there, {_shown(second.get(key, 'nothing'))} asked for" for key in keys]


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
