"""Records: what survives a kill, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.metric import Counts
from fseg.evaluation.records import Record, RecordFile, Row, cut_torn_lines, from_json, read_records, to_json

COUNTS = Counts.of(np.array([[0, 3, 3]]), np.array([[0, 3, 255]]), 5)
RECORD = Record("2007_000033", (3,), {"method": Row({"background": COUNTS}, (3, 4), ({"label": 3, "answer": "yes, «it» does"},))})


def write(folder: Path, *records: Record, worker: int = 0) -> Path:
    path = folder / f"records/worker-{worker}.jsonl"
    file = RecordFile(path)
    for record in records:
        file.append(record)
    file.close()
    return path


def test_a_record_reads_back_as_it_was() -> None:
    line = to_json(RECORD)
    assert '"3": [1, 1, 1]' in line  # class 3: hit, predicted and true once
    assert '"4"' not in line
    back = from_json(line, 5)
    assert (back.image, back.there, back.error) == ("2007_000033", (3,), None)
    row = back.rows["method"]
    assert (row.said, row.classes) == ((3, 4), ({"label": 3, "answer": "yes, «it» does"},))
    assert row.counts["background"].intersection.tolist() == [1, 0, 0, 1, 0]
    assert row.counts["background"].truth.dtype == np.int64


def test_records_of_all_workers_are_found(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    write(tmp_path, Record("b", error="ImageError: cut short"), worker=1)
    found = read_records(tmp_path, 5)
    assert list(found) == ["2007_000033", "b"]
    assert found["b"].error == "ImageError: cut short"


@pytest.mark.parametrize("order", [0, 1])
def test_a_success_stands_before_a_failure_of_the_same_image(tmp_path: Path, order: int) -> None:
    write(tmp_path, RECORD, worker=order)
    write(tmp_path, Record(RECORD.image, error="MemoryError"), worker=1 - order)
    assert read_records(tmp_path, 5)[RECORD.image].error is None


def test_a_line_that_a_kill_tore_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path, RECORD)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"image": "b", "rows": {"met')
    cut_torn_lines(tmp_path)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(tmp_path / "records/worker-0.jsonl")
    file.append(RECORD)
    whole = (tmp_path / "records/worker-0.jsonl").read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:20]))
    with pytest.raises(OutputError, match="the disk is full"):
        file.append(RECORD)
    assert (tmp_path / "records/worker-0.jsonl").read_bytes() == whole


def test_a_full_disk_that_takes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = RecordFile(tmp_path / "records/worker-0.jsonl")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"worker-0\.jsonl' cannot be written: No space left on device"):
        file.append(RECORD)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, RECORD)
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(RunMismatch, match=r"Line 2 of '.*worker-0\.jsonl' is no record"):
        read_records(tmp_path, 5)
