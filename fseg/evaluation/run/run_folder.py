"""The folder of a run: whose it is, its lock and its manifest, and what to say when one of them does not fit."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fseg import strict_json
from fseg.errors import OutputError, RunLocked, RunMismatch
from fseg.evaluation.run.records import FOLDER
from fseg.files import write_atomically

MANIFEST = "manifest.json"
LOCK = ".fseg-lock"
PATIENCE = 10.0
"""Seconds in which what is left of a killed run ends. Its workers are killed with it, and hold the lock until the kernel has taken back
their memory, which takes seconds where models of many gigabytes lie on a GPU; without PR_SET_PDEATHSIG, until an import lets them notice."""

MOST_SHOWN = 8
"""Lines of differences in a message."""

Kinds = Mapping[str, Any]
"""What a file of ours says by key: a type, several, or the kinds of what is inside."""

_KINDS: Kinds = {
    "data_set": str,
    "labels": int,
    "class_list": str,
    "classes": list,
    "rows": dict,
    "limit": (int, type(None)),
    "shard": str,
    "missing_files": int,
    "images": int,
    "set_images": int,
    "set_names": str,
    "models": {"backbone": str, "sam": str, "weights": dict},
    "versions": dict,
}
"""What every manifest says, and as what."""

_FOLLOWS_FROM = {
    "classes": ("class_list", "data_set"),
    "labels": ("data_set", "classes"),
    "class_list": ("data_set",),
    "missing_files": ("data_set",),
    "set_images": ("data_set", "limit"),
    "set_names": ("data_set", "limit", "set_images"),
    "images": ("data_set", "limit", "set_images", "shard"),
}
"""Keys that differ because others do: only the cause is told."""

_OF_A_START = re.compile(r"\.fseg-.+")
"""What a run that was killed before it had a manifest leaves behind: hidden files of our own naming."""


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
    foreign = [name for name in names if _OF_A_START.fullmatch(name) is None]
    if MANIFEST in names or not foreign:
        return
    if any((folder / FOLDER).glob("*.jsonl")):
        raise RunMismatch(
            f"{str(folder)!r} holds {FOLDER}/*.jsonl and no {MANIFEST}, which says what they are of. "
            "Put the manifest back, or name another place with --out."
        )
    shown = ", ".join(map(repr, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
    raise RunMismatch(f"{str(folder)!r} is no folder of a run: it holds {shown}. Name a new or empty folder with --out.")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a folder for one run. The lock belongs to an open file, so it is gone when the last process that holds it is.

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
        raise OutputError(f"{str(path)!r} cannot be written: {reason}. Name another place with --out.") from error
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
                    "Wait for it or end it; or name another place with --out."
                ) from error
        time.sleep(0.05)


def _check_is_lock(descriptor: int, path: Path) -> None:
    """A file that somebody else gave this name is not written into."""
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_file or re.fullmatch(rb"\d{0,20}", os.pread(descriptor, 21, 0)) is None:
        raise OutputError(f"{str(path)!r} is to be the lock of a run, and is another file. Move it, or name another place with --out.")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's run is of; None for a folder without one.

    Raises:
        RunMismatch: the file there is no manifest.
    """
    path = folder / MANIFEST
    try:
        manifest = strict_json.load(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _no_manifest(path, str(error)) from error
    wrong = [key for key, kind in _KINDS.items() if not fits(manifest, {key: kind})]
    if wrong:
        raise _no_manifest(path, f"it does not say {', '.join(wrong[:3])}, or not as this version does")
    return dict(manifest)


def fits(values: Any, kinds: Kinds) -> bool:
    """Whether values have these keys, each of its kind; others may stand beside them."""
    if not isinstance(values, dict) or not set(kinds) <= set(values):
        return False
    return all(fits(values[key], kind) if isinstance(kind, Mapping) else isinstance(values[key], kind) for key, kind in kinds.items())


def _no_manifest(path: Path, reason: str) -> RunMismatch:
    return RunMismatch(f"{str(path)!r} is no manifest of a run: {reason}. Name another place with --out.")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values, whole or not at all.

    Raises:
        NotFinite: a number among them is NaN or infinite.
        OutputError: the file cannot be written.
    """
    text = strict_json.dump(values, indent=2) + b"\n"
    write_atomically(path, lambda file: file.write(text))


def check_same(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A run goes on only as what it was.

    Raises:
        RunMismatch: the manifest of the folder says something else; the message shows the differences.
    """
    differing = differences(there, asked)
    if differing:
        raise RunMismatch(f"{str(folder)!r} holds another run: {listed(differing)}\nStart this one in a folder of its own (--out).")


def listed(differing: Sequence[str]) -> str:
    """Differences as a message shows them: each on a line, the first of many."""
    further = len(differing) - MOST_SHOWN
    return "".join(f"\n  {line}" for line in differing[:MOST_SHOWN]) + (f"\n  and {further} more" if further > 0 else "")


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What two manifests say differently, one line a cause."""
    first, second = (strict_json.load(strict_json.dump(one)) for one in (there, asked))  # tuples as the lists of JSON
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key) or (key in first) != (key in second)]
    causes = [key for key in keys if not set(_FOLLOWS_FROM.get(key, ())) & set(keys)]
    return [line for key in causes for line in _of_key(key, first, second)]


def _of_key(key: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    mine, theirs = first.get(key, _NOTHING), second.get(key, _NOTHING)
    if key == "rows" and isinstance(mine, dict) and isinstance(theirs, dict):
        return _rows(mine, theirs)
    if key == "classes" and isinstance(mine, list) and isinstance(theirs, list):
        return [f"classes: {_first_of_lists(mine, theirs)}"]
    lines = [_line(place, *both) for place, both in _flat(key, mine, theirs).items()]
    if key == "class_list" and first.get("classes") != second.get("classes"):
        return [f"{lines[0]}; {_first_of_lists(first['classes'], second['classes'])}"]
    return lines


_NOTHING = object()
"""A key that one side does not have."""


def _rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Rows of other names are one difference; rows of the same names one for each setting, however many rows it differs in."""
    if set(first) != set(second):
        return [_line("rows", ", ".join(first), ", ".join(second))]
    alike: dict[str, list[str]] = {}
    for row in first:
        for place, both in _flat("", first[row], second[row]).items():
            alike.setdefault(place, []).append(_line(f"rows.{row}{place}", *both))
    return [lines[0] + (f", and in {len(lines) - 1} more rows" if len(lines) > 1 else "") for lines in alike.values()]


def _flat(place: str, first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """Where two values differ: by place, what the one says and the other."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return {} if first == second else {place: (first, second)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**first, **second}:
        found |= _flat(f"{place}.{key}", first.get(key, _NOTHING), second.get(key, _NOTHING))
    return found


def _first_of_lists(first: Any, second: Any) -> str:
    if len(first) != len(second):
        return f"{len(first)} classes there, {len(second)} asked for"
    differing = [(index, *both) for index, both in enumerate(zip(first, second, strict=True)) if both[0] != both[1]]
    index, mine, theirs = differing[0]
    return _line(f"{len(differing)} of {len(first)} classes differ, the first, number {index + 1}", mine, theirs)


def _line(place: str, first: Any, second: Any) -> str:
    return f"{place}: {_shown(first)} there, {_shown(second)} asked for"


def _shown(value: Any) -> str:
    text = "nothing" if value is _NOTHING else value if isinstance(value, str) else strict_json.dump(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
