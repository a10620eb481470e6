"""What is kept of each image: counts and answers, one line of JSON each, in files that only grow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Int64

from fseg import strict_json
from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.metric import Counts
from fseg.evaluation.run.record_values import Expected, check_values

FOLDER = "records"

_WRITTEN_BY_A_RUN = re.compile(r"worker-\d+\.jsonl|cluster\.jsonl")

_SEALED = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


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
        content: hashes of the image's file and of its truth's, as they were read (see `fseg.evaluation.run.content`); None for a failure.
    """

    image: str
    there: tuple[int, ...] = ()
    rows: Mapping[str, Row] = field(default_factory=dict)
    content: tuple[str, str] | None = None
    error: str | None = None


def to_json(record: Record) -> bytes:
    """One line, without its end; its last entry is a checksum of the others. Counts are kept sparse: most classes are in no given image."""
    if record.error is not None:
        return _sealed({"image": record.image, "error": record.error})
    rows = {
        name: {
            "counts": {fill: _sparse(counts) for fill, counts in row.counts.items()},
            "said": list(row.said),
            "classes": [dict(one) for one in row.classes],
        }
        for name, row in record.rows.items()
    }
    return _sealed({"image": record.image, "content": record.content, "there": list(record.there), "rows": rows})


def from_json(line: bytes, expected: Expected) -> Record:
    """The record of a line.

    Raises:
        ValueError: its checksum is wrong, or it holds something that a record of this run cannot hold.
    """
    given = strict_json.load(_opened(line))
    check_values(given, expected)
    if "error" in given:
        return Record(given["image"], error=given["error"])
    rows = {
        name: Row(
            {fill: _dense(counts, expected.labels) for fill, counts in row["counts"].items()}, tuple(row["said"]), tuple(row["classes"])
        )
        for name, row in given["rows"].items()
    }
    return Record(given["image"], tuple(given["there"]), rows, tuple(given["content"]))


def _sealed(values: Mapping[str, Any]) -> bytes:
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
    """A file of records that is only appended to. A line is there whole, or the next run cuts it off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise self._cannot_write(error) from error

    def append(self, record: Record) -> None:
        """Add a record.

        Raises:
            OutputError: the disk is full; nothing of the line is left behind.
        """
        line = to_json(record) + b"\n"
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


def read_records(folder: Path, expected: Expected) -> dict[str, Record]:
    """All records of a run, by image; a success stands before a failure of the same image. A torn last line is passed over.

    Raises:
        RunMismatch: a file that no run writes, a line that is no record of this run, or two records of one image that differ.
    """
    records: dict[str, Record] = {}
    for path in _files(folder):
        for number, line in enumerate(_read(path).split(b"\n")[:-1], start=1):
            try:
                record = from_json(line, expected)
            except ValueError as error:
                raise RunMismatch(
                    f"Line {number} of {str(path)!r} is no record of this run: {error}. "
                    "Put the file back as it was; or remove the line, and its image is done again."
                ) from error
            known = records.get(record.image)
            if known is None or known.error is not None:
                records[record.image] = record
            elif record.error is None and to_json(record) != to_json(known):
                raise RunMismatch(
                    f"Line {number} of {str(path)!r} is a second record of {record.image!r}, which differs from the first. "
                    f"Remove all lines of {record.image!r} from the files beside it, and it is done again."
                )
    return records


def cut_torn_lines(folder: Path) -> None:
    """Cut off what a killed run left of a line. Only for the process that holds the lock of a folder whose manifest is its own.

    Raises:
        RunMismatch: there is a file of records that no run writes.
    """
    for path in list(_files(folder)):
        content = _read(path)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        if _WRITTEN_BY_A_RUN.fullmatch(path.name) is None or path.is_symlink() or not path.is_file():
            raise RunMismatch(f"{str(path)!r} is no file that a run writes, and is not touched. Move it elsewhere.")
        yield path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunMismatch(f"{str(path)!r} cannot be read: {error.strerror or error}. Put the file back as it was.") from error
