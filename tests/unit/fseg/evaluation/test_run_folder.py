"""The folder of a run: one run at a time, and only the same one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fseg.errors import OutputError, RunLocked, RunMismatch
from fseg.evaluation.run.differences import MOST_SHOWN, check_same, differences, listed
from fseg.evaluation.run.manifest import read_manifest
from fseg.evaluation.run.run_folder import check_ours
from probe.disk import folder_lock
from probe.disk.folder_lock import LOCK, locked


def test_a_second_run_on_a_folder_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.1)
    with locked(tmp_path), pytest.raises(RunLocked, match=r"Another run works in .* \(process \d+\)"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.1)
    code = f"import fcntl, time; file = open({str(tmp_path / LOCK)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(RunLocked), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        pass


def test_another_run_is_refused_and_the_difference_shown(tmp_path: Path) -> None:
    stored = {"data_set": "voc21", "rows": {"m": {"respond": {"layers": [7, 13]}}}, "limit": None}
    requested = {"data_set": "voc21", "rows": {"m": {"respond": {"layers": (7, 17)}}}, "limit": 5}
    with pytest.raises(RunMismatch) as raised:
        check_same(tmp_path, stored, requested)
    assert "  rows.m.respond.layers: [7, 13] stored, [7, 17] requested\n  limit: null stored, 5 requested\n" in str(raised.value)


def test_tuples_are_the_lists_that_json_makes_of_them(tmp_path: Path) -> None:
    check_same(tmp_path, {"layers": [7, 13]}, {"layers": (7, 13)})


def test_a_key_on_one_side_only_is_a_difference() -> None:
    assert differences({"a": 1}, {"b": 1}) == ["a: 1 stored, nothing requested", "b: nothing stored, 1 requested"]


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunMismatch, match="is no manifest"):
        read_manifest(tmp_path)


def test_a_folder_of_somebody_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunMismatch, match=r"is no folder of a run: it holds 'thesis\.txt'\. Name a new or empty folder"):
        check_ours(tmp_path)
    with pytest.raises(OutputError, match=r"thesis\.txt' cannot be written: Not a directory"):
        check_ours(tmp_path / "thesis.txt")


def test_records_without_a_manifest_are_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records/worker-0.jsonl").write_text("")
    with pytest.raises(RunMismatch, match=r"holds records/\*\.jsonl and no manifest\.json, .* Put the manifest back"):
        check_ours(tmp_path)


def test_what_an_interrupted_start_leaves_is_no_hindrance(tmp_path: Path) -> None:
    check_ours(tmp_path / "new")
    with locked(tmp_path):
        check_ours(tmp_path)
    check_ours(tmp_path)


@pytest.mark.parametrize("link", [False, True], ids=["a file", "a link"])
def test_a_file_of_somebody_else_is_not_taken_for_the_lock(tmp_path: Path, link: bool) -> None:
    mine = tmp_path / "mine"
    mine.write_text("not a lock")
    out = tmp_path / "out"
    out.mkdir()
    if link:
        (out / LOCK).symlink_to(mine)
    else:
        mine = mine.rename(out / LOCK)
    with pytest.raises(OutputError), locked(out):
        pass
    assert mine.read_text() == "not a lock"


def test_another_class_list_is_one_line() -> None:
    stored = {"class_list": "benchmark", "labels": 3, "classes": [["cat", "cat"], ["sofa", "sofa"]]}
    requested = {"class_list": "natural", "labels": 3, "classes": [["cat", "cat"], ["sofa", "couch"]]}
    assert differences(stored, requested) == [
        'class_list: benchmark stored, natural requested; 1 of 2 classes differ, the first, number 2: ["sofa", "sofa"] stored, '
        '["sofa", "couch"] requested'
    ]
    assert differences({**requested, "classes": stored["classes"]}, requested) == [
        'classes: 1 of 2 classes differ, the first, number 2: ["sofa", "sofa"] stored, ["sofa", "couch"] requested'
    ]


def test_another_data_set_is_one_line() -> None:
    stored = {"data_set": "voc21", "labels": 21, "class_list": "benchmark", "classes": [["a"]] * 20, "set_images": 9, "images": 9}
    requested = {"data_set": "ade150", "labels": 150, "class_list": "benchmark", "classes": [["b"]] * 150, "set_images": 7, "images": 7}
    assert differences(stored, requested) == ["data_set: voc21 stored, ade150 requested"]


def test_a_setting_that_differs_in_every_row_is_one_line() -> None:
    stored = {"rows": {str(number): {"name": f"a/{number}", "ask": {"gate": False}} for number in range(9)}}
    requested = {"rows": {str(number): {"name": f"b/{number}", "ask": {"gate": True}} for number in range(9)}}
    assert differences(stored, requested) == [
        "rows.0.name: a/0 stored, b/0 requested, and in 8 more rows",
        "rows.0.ask.gate: false stored, true requested, and in 8 more rows",
    ]
    assert differences({"rows": {"D": {"x": 1}}}, {"rows": {"M": {"x": 2}}}) == ["rows: D stored, M requested"]


def test_a_message_shows_eight_differences() -> None:
    lines = listed(differences({}, {str(number): number for number in range(11)})).splitlines()
    assert len(lines[1:]) == MOST_SHOWN + 1
    assert lines[-1] == "  and 3 more"


@pytest.mark.parametrize("content", [b"[]", b'{"name": "my web app"}', b'{"images": NaN}', b"\xff", b"[" * 100_000])
def test_a_file_of_another_program_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunMismatch, match="is no manifest of a run"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("written", "shown"), [({"data_set": "voc21"}, "1"), ({"data_set": "voc21", "format": 3}, "3")])
def test_a_run_of_another_version_is_refused_with_what_to_do(tmp_path: Path, written: dict[str, object], shown: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(written))
    with pytest.raises(
        RunMismatch, match=rf"in the format {shown} of another version .* reads the format 2\. Finish the run with the version"
    ):
        read_manifest(tmp_path)


def test_a_manifest_with_a_wrong_value_says_which(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"data_set": 21, "format": 2}))
    with pytest.raises(RunMismatch, match=r"is no manifest of a run: manifest\.data_set: not a string"):
        read_manifest(tmp_path)
