"""The files of a run's records: one line an image, only appended to, and read back after any end of the run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.run.records import Expected, Record, from_json, to_json

FOLDER = "records"
"""The folder of these files, in the folder of the run."""

_WRITTEN_BY_A_RUN = re.compile(r"worker-\d+\.jsonl|cluster\.jsonl")


class RecordFile:
    """A file of records that is only appended to; the next run cuts off an incomplete line."""

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
            raise OutputError(f"{str(self._path)!r} cannot grow: the disk is full. Free some space and start again; what is done is kept.")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(f"{str(self._path)!r} cannot be written: {error.strerror or error}. What is done is kept; start again to go on.")


def read_records(folder: Path, expected: Expected) -> dict[str, Record]:
    """All records of a run, by image.

    A success replaces a failure of the same image. An incomplete last line is skipped.

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
                    f"Remove all lines of {record.image!r} from all files of that folder, and it is done again."
                )
    return records


def cut_torn_lines(folder: Path) -> None:
    """Cut off incomplete last lines, which a killed run leaves.

    Only for the process that holds the folder's lock.

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
