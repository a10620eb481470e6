"""The differences between two runs, as a message shows them: one line for each cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fseg.errors import RunMismatch
from probe.disk import strict_json

MOST_SHOWN = 8
"""Lines of differences in a message."""

_FOLLOWS_FROM = {
    "classes": ("class_list", "data_set"),
    "labels": ("data_set", "classes"),
    "class_list": ("data_set",),
    "missing_files": ("data_set",),
    "set_images": ("data_set", "limit"),
    "set_names": ("data_set", "limit", "set_images"),
    "images": ("data_set", "limit", "set_images", "shard"),
}
"""Keys that differ because others do: a message names the cause alone."""

_MISSING = object()
"""A key that one side does not have."""


def check_same(folder: Path, stored: Mapping[str, object], requested: Mapping[str, object]) -> None:
    """Refuse to continue a run as another one.

    Args:
        stored: the folder's manifest.
        requested: the new run's manifest.

    Raises:
        RunMismatch: the two differ; the message shows how.
    """
    differing = differences(stored, requested)
    if differing:
        raise RunMismatch(f"{str(folder)!r} holds another run: {listed(differing)}\nStart this one in a new folder (--out).")


def listed(differing: Sequence[str]) -> str:
    """Differences as a message shows them: each on a line, and how many more there are."""
    further = len(differing) - MOST_SHOWN
    return "".join(f"\n  {line}" for line in differing[:MOST_SHOWN]) + (f"\n  and {further} more" if further > 0 else "")


def differences(stored: Mapping[str, object], requested: Mapping[str, object]) -> list[str]:
    """The differences between two manifests, one line for each cause.

    >>> differences({"data_set": "voc21", "images": 9}, {"data_set": "ade150", "images": 7})
    ['data_set: voc21 stored, ade150 requested']
    """
    first, second = _as_json(stored), _as_json(requested)
    keys = [key for key in {**first, **second} if first.get(key, _MISSING) != second.get(key, _MISSING)]
    causes = [key for key in keys if not set(_FOLLOWS_FROM.get(key, ())) & set(keys)]
    return [line for key in causes for line in _of_key(key, first, second)]


def _as_json(values: Mapping[str, object]) -> dict[str, object]:
    """The values as they would be read from a file, in which a tuple is a list."""
    read = strict_json.load(strict_json.dump(values))
    assert isinstance(read, dict)
    return read


def _of_key(key: str, first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    mine, theirs = first.get(key, _MISSING), second.get(key, _MISSING)
    if key == "rows" and isinstance(mine, dict) and isinstance(theirs, dict):
        return _rows(mine, theirs)
    classes = _class_lists(first.get("classes"), second.get("classes"))
    if key == "classes" and classes:
        return [f"classes: {classes}"]
    lines = [_line(path, *both) for path, both in _flat(key, mine, theirs).items()]
    return [f"{lines[0]}; {classes}"] if key == "class_list" and classes else lines


def _rows(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """One line where the rows have other names; else one for each setting that differs in any row."""
    if set(first) != set(second):
        return [_line("rows", ", ".join(first), ", ".join(second))]
    by_setting: dict[str, list[str]] = {}
    for row in first:
        for path, both in _flat("", first[row], second[row]).items():
            by_setting.setdefault(path, []).append(_line(f"rows.{row}{path}", *both))
    return [lines[0] + (f", and in {len(lines) - 1} more rows" if len(lines) > 1 else "") for lines in by_setting.values()]


def _flat(path: str, first: object, second: object) -> dict[str, tuple[object, object]]:
    """The pairs of values that differ, by their path in the two."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return {} if first == second else {path: (first, second)}
    pairs: dict[str, tuple[object, object]] = {}
    for key in {**first, **second}:
        pairs |= _flat(f"{path}.{key}", first.get(key, _MISSING), second.get(key, _MISSING))
    return pairs


def _class_lists(first: object, second: object) -> str:
    """The first class that differs, or the lengths of the lists; "" without two different lists."""
    if not (isinstance(first, list) and isinstance(second, list)) or first == second:
        return ""
    if len(first) != len(second):
        return f"{len(first)} classes stored, {len(second)} requested"
    differing = [(index, *both) for index, both in enumerate(zip(first, second, strict=True)) if both[0] != both[1]]
    index, mine, theirs = differing[0]
    return _line(f"{len(differing)} of {len(first)} classes differ, the first, number {index + 1}", mine, theirs)


def _line(path: str, first: object, second: object) -> str:
    return f"{path}: {_shown(first)} stored, {_shown(second)} requested"


def _shown(value: object) -> str:
    text = "nothing" if value is _MISSING else value if isinstance(value, str) else strict_json.dump(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
