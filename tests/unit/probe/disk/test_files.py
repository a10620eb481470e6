"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import IO

import pytest

from fseg.errors import OutputError
from probe.disk.files import check_writable, clear_temporary, write_atomically


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "a.txt", lambda file: file.write(b"old"))

    def fail(file: IO[bytes]) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(tmp_path / "deep" / "a.txt", fail)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep").iterdir()] == [("a.txt", b"old")]


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "out")
    check_writable(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []


def test_a_new_file_has_the_mode_that_the_umask_leaves_and_the_umask_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that made a file while the umask was 0 would make one that everybody can write."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as watched:
            watched.setattr(os, "umask", lambda mask: pytest.fail(f"umask({mask:o}) was called"))
            write_atomically(tmp_path / "a.txt", lambda file: file.write(b"new"))
            check_writable(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), lambda file: file.write(b"new"))
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_what_a_killed_writer_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        write_atomically(tmp_path / "a.txt", lambda file: os.kill(os.getpid(), signal.SIGKILL))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = [".a.txt.part", ".probe-notes.part", f"{left.name}.part", f"x{left.name}", "sub"]
    for name in others[:-1]:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / left.name).touch()
    clear_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert (tmp_path / "sub" / left.name).exists()  # of another folder, perhaps with a run of its own
    clear_temporary(tmp_path / "not made yet")
