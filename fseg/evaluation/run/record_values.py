"""What a record may hold: the checks that a line passes before its numbers count."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

_MOST_PIXELS = 2**40
"""Far above any image, and so far below int64 that a set's sum stays inside it."""

_HASH = re.compile(r"[0-9a-f]{32}")
_LABEL = re.compile(r"0|[1-9]\d{0,5}")


@dataclass(frozen=True)
class Expected:
    """What the records of a run are of.

    Attributes:
        rows: for each row the fills that are counted (see `fseg.evaluation.measure.fills`).
        labels: how many there are, background included.
        background: label 0 is the background.
        images: the names that may occur; None: any.
    """

    rows: Mapping[str, tuple[str, ...]]
    labels: int
    background: bool
    images: Collection[str] | None = None


def check_values(given: Any, expected: Expected) -> None:
    """Check what was read from a line.

    Raises:
        ValueError: with the first thing in it that a record of this run does not hold.
    """
    if isinstance(given, dict) and "error" in given:
        _keys("the record of a failure", given, {"image", "error"})
        _need(isinstance(given["error"], str), "the error is no text")
    else:
        _keys("the record", given, {"image", "content", "there", "rows"})
    image = given["image"]
    _need(isinstance(image, str), "the image's name is no text")
    _need(expected.images is None or image in expected.images, f"the run has no image {image!r}")
    if "error" in given:
        return
    content = given["content"]
    _need(isinstance(content, list) and len(content) == 2 and all(map(_is_hash, content)), "the content is not two hashes")
    _labels("there", given["there"], expected)
    _keys("rows", given["rows"], expected.rows)
    for name, row in given["rows"].items():
        _keys(f"the row {name!r}", row, {"counts", "said", "classes"})
        _labels("said", row["said"], expected)
        _keys("the counts", row["counts"], expected.rows[name])
        for counts in row["counts"].values():
            _check_counts(counts, expected.labels)
        _need(isinstance(row["classes"], list), "classes are no list")
        for one in row["classes"]:
            _check_class(one, expected)


def _check_counts(counts: Any, labels: int) -> None:
    _need(isinstance(counts, dict), "the counts are no mapping")
    for label, three in counts.items():
        _need(_LABEL.fullmatch(label) is not None and int(label) < labels, f"the counts have the label {label!r} of {labels}")
        _need(
            isinstance(three, list) and len(three) == 3 and all(map(_is_int, three)),
            f"the counts of label {label} are not three whole numbers",
        )
        intersection, prediction, truth = three
        _need(
            0 <= intersection <= min(prediction, truth) and max(prediction, truth) < _MOST_PIXELS,
            f"of label {label}, {intersection} pixels agree, of {prediction} predicted and {truth} true ones",
        )


def _check_class(one: Any, expected: Expected) -> None:
    _keys("a class", one, {"label", "asked_as", "answer", "margin", "score", "flags"})
    _labels("a class", [one["label"]], expected)
    _need(isinstance(one["asked_as"], str) and isinstance(one["answer"], str), "a class's question or answer is no text")
    _need(all(one[key] is None or type(one[key]) is float for key in ("margin", "score")), "a class's margin or score is no number")
    _need(isinstance(one["flags"], list) and all(isinstance(flag, str) for flag in one["flags"]), "a class's flags are no texts")


def _labels(name: str, given: Any, expected: Expected) -> None:
    _need(isinstance(given, list) and all(map(_is_int, given)), f"{name}: not whole numbers")
    first = int(expected.background)
    _need(all(first <= label < expected.labels for label in given), f"{name}: labels lie in {first}..{expected.labels - 1}, not {given}")
    _need(len(set(given)) == len(given), f"{name}: a label is there twice")


def _keys(name: str, given: Any, wanted: Collection[str]) -> None:
    _need(isinstance(given, dict), f"{name}: no mapping")
    _need(set(given) == set(wanted), f"{name}: the keys are {', '.join(map(str, given))}, not {', '.join(sorted(wanted))}")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None
