"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from fseg.errors import OutputError
from fseg.files import check_writable, write_atomically


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
