"""The folder of a run: one run at a time, and only the same one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fseg.errors import RunLocked, RunMismatch
from fseg.evaluation import run_folder
from fseg.evaluation.run_folder import check_same, differences, locked, read_manifest


def test_a_second_run_on_a_folder_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with locked(tmp_path), pytest.raises(RunLocked, match=r"Another run works in .* \(process \d+\)"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    code = f"import fcntl, time; file = open({str(tmp_path / 'lock')!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
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
    there = {"data_set": "voc21", "rows": {"m": {"respond": {"layers": [7, 13]}}}, "limit": None}
    asked = {"data_set": "voc21", "rows": {"m": {"respond": {"layers": (7, 17)}}}, "limit": 5}
    with pytest.raises(RunMismatch) as raised:
        check_same(tmp_path, there, asked)
    assert "  rows.m.respond.layers: [7, 13] there, [7, 17] asked for\n  limit: null there, 5 asked for\n" in str(raised.value)


def test_tuples_are_the_lists_that_json_makes_of_them(tmp_path: Path) -> None:
    check_same(tmp_path, {"layers": [7, 13]}, {"layers": (7, 13)})


def test_a_key_on_one_side_only_is_a_difference() -> None:
    assert differences({"a": 1}, {"b": 1}) == ["a: 1 there, nothing asked for", "b: nothing there, 1 asked for"]


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunMismatch, match="is no manifest"):
        read_manifest(tmp_path)
