"""What is kept of each image: counts and answers, one line of JSON each, in files that only grow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.metric import Counts

FOLDER = "records"


@dataclass(frozen=True, eq=False)
class Row:
    """What one recipe made of one image.

    Attributes:
        counts: by what the pixels without a mask became (see `fseg.evaluation.measure.predictions`).
        said: labels of the classes that got a yes.
        classes: answer, score and flags of each class that got a yes or is in the truth, as plain values.
    """

    counts: Mapping[str, Counts]
    said: tuple[int, ...]
    classes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Record:
    """What is kept of one image: rows by name and what is in the truth; or why there are none.

    Attributes:
        image: the sample's name.
        there: labels of the classes of which the truth has a pixel, background left out.
    """

    image: str
    there: tuple[int, ...] = ()
    rows: Mapping[str, Row] = field(default_factory=dict)
    error: str | None = None


def to_json(record: Record) -> str:
    """One line, without its end. Counts are kept sparse: most classes are in no given image."""
    if record.error is not None:
        return json.dumps({"image": record.image, "error": record.error})
    rows = {
        name: {
            "counts": {fill: _sparse(counts) for fill, counts in row.counts.items()},
            "said": list(row.said),
            "classes": [dict(one) for one in row.classes],
        }
        for name, row in record.rows.items()
    }
    return json.dumps({"image": record.image, "there": list(record.there), "rows": rows}, ensure_ascii=False)


def from_json(line: str, labels: int) -> Record:
    """The record of a line, with counts of so many labels."""
    given = json.loads(line)
    if "error" in given:
        return Record(given["image"], error=given["error"])
    rows = {
        name: Row({fill: _dense(counts, labels) for fill, counts in row["counts"].items()}, tuple(row["said"]), tuple(row["classes"]))
        for name, row in given["rows"].items()
    }
    return Record(given["image"], tuple(given["there"]), rows)


def _sparse(counts: Counts) -> dict[str, list[int]]:
    """label -> [intersection, prediction, truth], where any of them is not 0."""
    stacked = np.stack([counts.intersection, counts.prediction, counts.truth], axis=1)
    return {str(label): stacked[label].tolist() for label in np.flatnonzero(stacked.any(axis=1)).tolist()}


def _dense(sparse: Mapping[str, Iterable[int]], labels: int) -> Counts:
    stacked: Int64[np.ndarray, "labels 3"] = np.zeros((labels, 3), dtype=np.int64)
    for label, three in sparse.items():
        stacked[int(label)] = list(three)
    return Counts(stacked[:, 0], stacked[:, 1], stacked[:, 2])


class RecordFile:
    """A file of records that is only appended to. A line is there whole, or the next reader cuts it off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise self._cannot_write(error) from error

    def append(self, record: Record) -> None:
        """Add a record.

        Raises:
            OutputError: the disk is full; nothing of the line is left behind.
        """
        line = (to_json(record) + "\n").encode()
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise self._cannot_write(error) from error
        if written < len(line):
            os.ftruncate(self._descriptor, before)
            raise OutputError(
                f"{str(self._path)!r} takes no more: the disk is full. Free some space and start again; what is done is kept."
            )

    def close(self) -> None:
        """No more records."""
        os.close(self._descriptor)

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(f"{str(self._path)!r} cannot be written: {error.strerror or error}. What is done is kept; start again to go on.")


def read_records(folder: Path, labels: int) -> dict[str, Record]:
    """All records of a run, by image; a success stands before a failure of the same image.

    Raises:
        RunMismatch: a line is no record.
    """
    records: dict[str, Record] = {}
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], start=1):
            try:
                record = from_json(line, labels)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise RunMismatch(
                    f"Line {number} of {str(path)!r} is no record ({error}). Remove the line, and its image is done again."
                ) from error
            if record.image not in records or record.error is None:
                records[record.image] = record
    return records


def cut_torn_lines(folder: Path) -> None:
    """Cut off what a killed run left of a line. Only for the one process that holds the folder's lock."""
    for path in (folder / FOLDER).glob("*.jsonl"):
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
