"""Class lists, from a caller and from a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fseg.errors import InvalidClasses
from fseg.vocabulary.classes import check_classes, read_classes


def test_a_class_is_asked_about_by_its_own_name() -> None:
    assert check_classes(["cat", "potted  plant "]) == {"cat": ("cat",), "potted plant": ("potted plant",)}


def test_a_class_may_have_several_names() -> None:
    assert check_classes({"sofa": ["sofa", "couch", "sofa"], "cat": "cat"}) == {"sofa": ("sofa", "couch"), "cat": ("cat",)}


def test_unicode_quotes_and_many_names_are_fine() -> None:
    names = ["café", '"quoted"', "l'eau", "犬", *(f"class {i}" for i in range(200))]
    assert list(check_classes(names)) == names


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "No classes were given"),
        (["cat", ""], "Each class needs a name"),
        (["cat", "  "], "Each class needs a name"),
        (["cat", 3], "Each class needs a name"),
        (["cat", "Cat"], "'Cat' appears twice"),
        ("cat", "give a list of names"),
        (None, "give a list of names"),
        ({"sofa": []}, "'sofa' has no name to ask about"),
        ({"sofa": ["sofa", ""]}, "Each class needs a name"),
        ({"sofa": 3}, "'sofa' has the names 3. Give a list"),
        (["cat\udce9"], "lone surrogate"),
        (["cat\x00"], "control character"),
        (["a" * 201], "has 201 characters"),
    ],
)
def test_lists_that_cannot_be_asked_about_are_refused(classes: object, message: str) -> None:
    with pytest.raises(InvalidClasses, match=message):
        check_classes(classes)  # type: ignore[arg-type]


def test_a_file_has_a_class_a_line_and_synonyms_behind_commas(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("# furniture\nsofa, couch\n\npotted plant\n")
    assert read_classes(tmp_path / "c.txt") == {"sofa": ("sofa", "couch"), "potted plant": ("potted plant",)}


@pytest.mark.parametrize(
    ("text", "message"), [("", "No classes"), ("cat,\n", "empty name between two commas"), ("cat\ncat\n", "'cat' appears twice")]
)
def test_files_that_are_no_class_list_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(InvalidClasses, match=message):
        read_classes(tmp_path / "c.txt")
    with pytest.raises(InvalidClasses, match="cannot be read"):
        read_classes(tmp_path / "missing.txt")


def test_a_pipe_and_a_name_that_no_file_can_have_are_no_class_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("a" * 5000), Path("a\0b"), Path("caf\udce9.txt"), tmp_path):
        with pytest.raises(InvalidClasses, match="cannot be read"):
            read_classes(path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidClasses, match=r"cannot be read: .*UTF-8"):
        read_classes(tmp_path / "latin.txt")
