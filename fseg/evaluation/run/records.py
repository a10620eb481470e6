"""The record of one image: pixel counts and answers, as one line of JSON."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from zlib import crc32

import numpy as np
from attrs import field, frozen
from cattrs import Converter
from jaxtyping import Int64

from fseg.evaluation.run.structuring import strict_converter, structure
from fseg.labels.metric import Counts
from probe.disk import strict_json

_MOST_PIXELS = 2**40
"""Far above any image, and so far below int64 that a set's sum stays inside it."""

_HASH = re.compile(r"[0-9a-f]{32}")
_LABEL = re.compile(r"0|[1-9]\d{0,5}")
_SEALED = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


@frozen
class ClassRecord:
    """The answer about one class.

    Attributes:
        label: of the class in the data set.
        asked_as: the name that the question used.
        answer: the model's text.
        margin: of the yes over the no, in logits; None without a gate.
        score: SAM's; None for a class without a mask.
        flags: of its evidence.
    """

    label: int
    asked_as: str
    answer: str
    margin: float | None
    score: float | None
    flags: tuple[str, ...]


@frozen(eq=False)
class Row:
    """The result of one recipe on one image.

    Attributes:
        counts: pixel counts, by how the pixels without a mask were filled (see `fseg.evaluation.measure.predictions`).
        predicted: labels of the classes that the model said yes to.
        classes: for each class that is predicted or in the ground truth.
    """

    counts: Mapping[str, Counts]
    predicted: tuple[int, ...]
    classes: tuple[ClassRecord, ...]


@frozen(eq=False)
class Record:
    """The record of one image: a row for each recipe, or an error.

    Attributes:
        image: the sample's name.
        ground_truth: labels of the classes that the ground truth has a pixel of, background left out.
        rows: by the recipe's name.
        content: hashes of the image file and of the label file, as they were read (see `fseg.evaluation.run.content`); empty for a failure.
        error: why the image failed; None if it did not.
    """

    image: str
    ground_truth: tuple[int, ...] = ()
    rows: Mapping[str, Row] = field(factory=dict)
    content: tuple[str, ...] = ()
    error: str | None = None


@frozen
class _Failure:
    image: str
    error: str


@frozen
class _Success:
    image: str
    content: tuple[str, ...]
    ground_truth: tuple[int, ...]
    rows: Mapping[str, Row]


@frozen
class Expected:
    """What the records of a run have to fit.

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


def to_json(record: Record) -> bytes:
    """The record as one line, without its end.

    The last entry is a checksum of the others. Classes without a pixel are left out of the counts.
    """
    if record.error is not None:
        return _sealed({"image": record.image, "error": record.error})
    rows = {name: _converter(0).unstructure(row) for name, row in record.rows.items()}
    return _sealed({"image": record.image, "content": record.content, "ground_truth": record.ground_truth, "rows": rows})


def from_json(line: bytes, expected: Expected) -> Record:
    """The record of a line.

    Raises:
        ValueError: its checksum is wrong, or it holds something that a record of this run cannot hold.
    """
    values = strict_json.load(_opened(line))
    converter = _converter(expected.labels)
    if isinstance(values, dict) and "error" in values:
        failure = structure(values, _Failure, converter, "record")
        record = Record(failure.image, error=failure.error)
    else:
        success = structure(values, _Success, converter, "record")
        record = Record(success.image, success.ground_truth, success.rows, success.content)
    _check(record, expected)
    return record


def _check(record: Record, expected: Expected) -> None:
    """Refuse what has the right types, and is not of this run."""
    _need(expected.images is None or record.image in expected.images, f"the run has no image {record.image!r}")
    if record.error is not None:
        return
    _need(len(record.content) == 2 and all(map(_HASH.fullmatch, record.content)), "the content is not two hashes")
    _check_labels("ground_truth", record.ground_truth, expected)
    _check_keys("rows", record.rows, expected.rows)
    for name, row in record.rows.items():
        _check_keys("counts", row.counts, expected.rows[name])
        _check_labels("predicted", row.predicted, expected)
        for one in row.classes:
            _check_labels("a class", [one.label], expected)


def _check_labels(name: str, labels: Sequence[int], expected: Expected) -> None:
    first = int(expected.background)
    within = all(first <= label < expected.labels for label in labels)
    _need(within, f"{name}: labels lie in {first}..{expected.labels - 1}, not {list(labels)}")
    _need(len(set(labels)) == len(labels), f"{name}: a label is there twice")


def _check_keys(name: str, mapping: Mapping[str, object], expected_keys: Collection[str]) -> None:
    _need(set(mapping) == set(expected_keys), f"{name}: the keys are {', '.join(mapping)}, not {', '.join(sorted(expected_keys))}")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


@cache
def _converter(labels: int) -> Converter:
    """The converter of records with so many labels."""
    converter = strict_converter()
    sparse = converter.get_structure_hook(Mapping[str, tuple[int, ...]])
    converter.register_structure_hook(Counts, lambda given, _: _dense(sparse(given, Mapping[str, tuple[int, ...]]), labels))
    converter.register_unstructure_hook(Counts, _sparse)
    return converter


def _sparse(counts: Counts) -> dict[str, list[int]]:
    """label -> [intersection, prediction, truth], where any of them is not 0."""
    stacked = np.stack([counts.intersection, counts.prediction, counts.truth], axis=1)
    return {str(label): stacked[label].tolist() for label in np.flatnonzero(stacked.any(axis=1)).tolist()}


def _dense(sparse: Mapping[str, tuple[int, ...]], labels: int) -> Counts:
    stacked: Int64[np.ndarray, "labels 3"] = np.zeros((labels, 3), dtype=np.int64)
    for label, counts in sparse.items():
        _need(_LABEL.fullmatch(label) is not None and int(label) < labels, f"the counts have the label {label!r} of {labels}")
        _check_counts(label, counts)
        stacked[int(label)] = counts
    return Counts(stacked[:, 0], stacked[:, 1], stacked[:, 2])


def _check_counts(label: str, counts: Sequence[int]) -> None:
    _need(len(counts) == 3, f"the counts of label {label} are not three integers")
    intersection, prediction, truth = counts
    _need(
        0 <= intersection <= min(prediction, truth) and max(prediction, truth) < _MOST_PIXELS,
        f"of label {label}, {intersection} pixels agree, of {prediction} predicted and {truth} true ones",
    )


def _sealed(values: Mapping[str, object]) -> bytes:
    body = strict_json.dump(values)
    return body[:-1] + b', "crc32": "%08x"}' % crc32(body)


def _opened(line: bytes) -> bytes:
    found = _SEALED.fullmatch(line)
    if found is None:
        raise ValueError("it does not end with a checksum")
    body = found[1] + b"}"
    if crc32(body) != int(found[2], 16):
        raise ValueError("its checksum is another: the file is damaged")
    return body
