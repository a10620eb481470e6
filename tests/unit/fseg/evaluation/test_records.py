"""Records: what survives a kill, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from attrs import evolve

from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.run.record_files import RecordFile, cut_torn_lines, read_records
from fseg.evaluation.run.records import ClassRecord, Expected, Record, Row, from_json, to_json
from fseg.labels.metric import Counts

COUNTS = Counts.of(np.array([[0, 3, 3]]), np.array([[0, 3, 255]]), 5)
ANSWER = ClassRecord(label=3, asked_as="cat", answer="yes, «it» does", margin=1.5, score=None, flags=())
RECORD = Record("2007_000033", (3,), {"method": Row({"background": COUNTS}, (3, 4), (ANSWER,))}, content=("0" * 32, "f" * 32))
EXPECTED = Expected({"method": ("background",)}, labels=5, background=True)


def write(folder: Path, *records: Record, worker: int = 0) -> Path:
    path = folder / f"records/worker-{worker}.jsonl"
    file = RecordFile(path)
    for record in records:
        file.append(record)
    file.close()
    return path


def test_a_record_reads_back_as_it_was() -> None:
    line = to_json(RECORD)
    assert b'"3": [1, 1, 1]' in line  # class 3: hit, predicted and true once
    assert b'"4"' not in line
    back = from_json(line, EXPECTED)
    assert (back.image, back.ground_truth, back.error, back.content) == ("2007_000033", (3,), None, ("0" * 32, "f" * 32))
    row = back.rows["method"]
    assert (row.predicted, row.classes) == ((3, 4), (ANSWER,))
    assert row.counts["background"].intersection.tolist() == [1, 0, 0, 1, 0]
    assert row.counts["background"].truth.dtype == np.int64


def test_records_of_all_workers_are_found(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    write(tmp_path, Record("b", error="ImageError: cut short"), worker=1)
    found = read_records(tmp_path, EXPECTED)
    assert list(found) == ["2007_000033", "b"]
    assert found["b"].error == "ImageError: cut short"


@pytest.mark.parametrize("order", [0, 1])
def test_a_success_stands_before_a_failure_of_the_same_image(tmp_path: Path, order: int) -> None:
    write(tmp_path, RECORD, worker=order)
    write(tmp_path, Record(RECORD.image, error="MemoryError"), worker=1 - order)
    assert read_records(tmp_path, EXPECTED)[RECORD.image].error is None


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
        read_records(tmp_path, EXPECTED)


def test_a_number_that_was_changed_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, RECORD)
    path.write_bytes(path.read_bytes().replace(b'"3": [1, 1, 1]', b'"3": [1, 1, 3]'))
    with pytest.raises(RunMismatch, match=r"Line 1 of .* its checksum is another"):
        read_records(tmp_path, EXPECTED)


def sealed(values: dict[str, Any]) -> bytes:
    """A line with a right checksum, whatever it holds."""
    return with_checksum(json.dumps(values).encode())


def with_checksum(body: bytes) -> bytes:
    return body[:-1] + b', "crc32": "%08x"}' % crc32(body)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    values = {key: value for key, value in json.loads(to_json(RECORD)).items() if key != "crc32"}
    change(values)
    return sealed(values)


def row(values: dict[str, Any]) -> dict[str, Any]:
    return values["rows"]["method"]


NO_RECORDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an image of another run": (lambda v: v.update(image="2007_000032"), "the run has no image '2007_000032'"),
    "a row of another job": (lambda v: v["rows"].update(other=row(v)), "rows: the keys are method, other, not method"),
    "a row too few": (lambda v: v["rows"].clear(), "rows: the keys are"),
    "an unknown key": (lambda v: v.update(comment="mine"), "record: unknown keys: comment"),
    "no content": (lambda v: v.update(content=None), "content: not a list"),
    "a content that is no hash": (lambda v: v.update(content=["0" * 32, "f"]), "the content is not two hashes"),
    "a label beyond the classes": (lambda v: v.update(ground_truth=[5]), r"labels lie in 1\.\.4, not \[5\]"),
    "the background as a class": (lambda v: row(v).update(predicted=[0]), r"labels lie in 1\.\.4, not \[0\]"),
    "counts of a label beyond the classes": (lambda v: row(v)["counts"]["background"].update({"5": [1, 1, 1]}), "the label '5' of 5"),
    "counts of another fill": (lambda v: row(v)["counts"].update(none={}), "counts: the keys are background, none"),
    "more hits than predictions": (lambda v: row(v)["counts"]["background"].update({"4": [2, 1, 2]}), "2 pixels agree, of 1 predicted"),
    "more hits than truth": (
        lambda v: row(v)["counts"]["background"].update({"4": [2, 2, 1]}),
        "2 pixels agree, of 2 predicted and 1 true",
    ),
    "a negative count": (lambda v: row(v)["counts"]["background"].update({"4": [-1, 0, 0]}), "-1 pixels agree"),
    "half a pixel": (
        lambda v: row(v)["counts"]["background"].update({"4": [0.5, 1, 1]}),
        r"counts\['background'\]\['4'\]\[0\]: not an integer",
    ),
    "a count beyond int64": (lambda v: row(v)["counts"]["background"].update({"4": [0, 10**30, 0]}), "0 pixels agree"),
    "an answer that is a number": (
        lambda v: row(v)["classes"][0].update(answer=1),
        r"rows\['method'\]\.classes\[0\]\.answer: not a string",
    ),
    "a list": (lambda v: v.update(rows=[1]), "record.rows: not an object"),
    "two counts": (lambda v: row(v)["counts"]["background"].update({"4": [0, 0]}), "label 4 are not three integers"),
    "the keys of format 1": (lambda v: v.update(there=v.pop("ground_truth")), "record.ground_truth: the key 'ground_truth' is missing"),
}


@pytest.mark.parametrize("wrong", NO_RECORDS)
def test_only_a_record_of_this_run_counts_even_where_the_checksum_is_right(wrong: str) -> None:
    mine = Expected({"method": ("background",)}, labels=5, background=True, images={RECORD.image})
    change, message = NO_RECORDS[wrong]
    assert from_json(changed(lambda _: None), mine).ground_truth == (3,)
    with pytest.raises(ValueError, match=message):
        from_json(changed(change), mine)


def test_what_json_does_not_have_is_no_record() -> None:
    with pytest.raises(ValueError, match="NaN is no JSON"):
        from_json(changed(lambda values: row(values)["classes"][0].update(margin=float("nan"))), EXPECTED)
    twice = b'{"image": "a", "image": "b", "error": ""}'
    with pytest.raises(ValueError, match="a key is there twice"):
        from_json(with_checksum(twice), EXPECTED)


def test_a_foreign_file_among_the_records_is_refused_and_not_cut(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    foreign = tmp_path / "records/mine.jsonl"
    foreign.write_text("no line end")
    for look in (cut_torn_lines, lambda folder: read_records(folder, EXPECTED)):
        with pytest.raises(RunMismatch, match=r"mine\.jsonl' is no file that a run writes"):
            look(tmp_path)
    assert foreign.read_text() == "no line end"


def test_a_link_among_the_records_is_not_cut(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    (tmp_path / "mine").write_text("no line end")
    (tmp_path / "records/worker-1.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(RunMismatch, match=r"worker-1\.jsonl' is no file that a run writes"):
        cut_torn_lines(tmp_path)
    with pytest.raises(OutputError):
        RecordFile(tmp_path / "records/worker-1.jsonl")
    assert (tmp_path / "mine").read_text() == "no line end"


def test_two_records_of_an_image_have_to_agree(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    write(tmp_path, RECORD, worker=1)
    assert list(read_records(tmp_path, EXPECTED)) == [RECORD.image]
    write(tmp_path, evolve(RECORD, content=("1" * 32, "f" * 32)), worker=2)
    with pytest.raises(RunMismatch, match=r"Line 1 of .*worker-2\.jsonl' is a second record of '2007_000033', which differs"):
        read_records(tmp_path, EXPECTED)


def test_the_name_of_a_file_that_is_not_utf_8_can_be_recorded(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    path = write(tmp_path, Record(name, error="ImageError"))
    assert json.loads(path.read_bytes())["image"] == name
    assert list(read_records(tmp_path, EXPECTED)) == [name]
