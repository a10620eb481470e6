"""Folders of results: plain names inside the folder that was named, and nobody else's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fseg.cli.folders import folder_name, refuse_existing, refuse_inputs, result_folders
from fseg.errors import OutputError


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("street.png", "street"),
        ("...png", "image"),
        ("..png", "image"),
        (".png", ".png"),
        ("a/b/c.tar.png", "c.tar"),
        ("nul.png", "nul_"),
        ("COM1.x.png", "COM1.x_"),
        ("a\nb\x1b.png", "a_b_"),
        ("a:b?.png", "a_b_"),
        ("caf\udce9.png", "caf_"),
        ("\u202egnp.png", "_gnp"),
        ("dots. ..png", "dots"),
        ("猫.png", "猫"),
        ("a" * 300 + ".png", "a" * 200),
        ("猫" * 100 + ".png", "猫" * 66),
    ],
)
def test_a_folder_has_a_plain_name(image: str, name: str) -> None:
    assert folder_name(Path(image)) == name


def test_no_two_pictures_share_a_folder(tmp_path: Path) -> None:
    names = ["x.png", "x.jpg", "x-2.png", "a/X.png", "é.png", "e\u0301.png"]
    assert [path.name for path in result_folders(tmp_path, [Path(name) for name in names], overwrite=False)] == [
        "x",
        "x-2",
        "x-2-2",
        "X-3",
        "é",
        "e\u0301-2",
    ]


RESULT = {"image_size": [1, 1], "classes": [], "recipe": {}, "models": {}, "versions": {}}


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        ({}, True),
        ({"result.json": json.dumps(RESULT), "notes.txt": "mine"}, True),
        ({".result.json.x1": ""}, True),
        ({"labels.png": "mine"}, False),
        ({"result.json": "{}"}, False),
        ({"result.json": "[" * 100_000}, False),
        ({"holiday.jpg": "mine"}, False),
    ],
)
def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path: Path, files: dict[str, str], ours: bool) -> None:
    (tmp_path / "x").mkdir()
    for name, text in files.items():
        (tmp_path / "x" / name).write_text(text)
    if ours:
        assert result_folders(tmp_path, [Path("x.png")], overwrite=True) == [tmp_path / "x"]
    else:
        with pytest.raises(OutputError, match="did not write there"):
            result_folders(tmp_path, [Path("x.png")], overwrite=True)


def test_a_file_where_the_folder_would_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputError, match="is no folder"):
        result_folders(tmp_path, [Path("x.png")], overwrite=True)


def test_a_picture_that_a_result_would_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name, text in (("result.json", json.dumps(RESULT)), ("labels.png", "")):
        (tmp_path / "labels" / name).write_text(text)
    with pytest.raises(OutputError, match="would be written over"):
        result_folders(tmp_path, [tmp_path / "labels" / "labels.png"], overwrite=True)


def test_an_earlier_result_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert result_folders(tmp_path, [Path("x.png")], overwrite=False) == [tmp_path / "x"]  # an empty folder is no result
    (tmp_path / "x" / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(OutputError, match=r"holds an earlier result\. Replace it with --overwrite"):
        result_folders(tmp_path, [Path("y.png"), Path("x.png")], overwrite=False)
    assert result_folders(tmp_path, [Path("x.png")], overwrite=True) == [tmp_path / "x"]


def test_an_existing_file_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "coco.json", "--coco", overwrite=False)
    (tmp_path / "coco.json").symlink_to("nowhere")
    with pytest.raises(OutputError, match=r"exists\. Replace it with --overwrite, or name another file with --coco"):
        refuse_existing(tmp_path / "coco.json", "--coco", overwrite=False)
    refuse_existing(tmp_path / "coco.json", "--coco", overwrite=True)
    with pytest.raises(OutputError, match=r"is a folder\. Name a file with --coco"):
        refuse_existing(tmp_path, "--coco", overwrite=True)


def test_names_that_no_file_can_have_are_no_input(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_text("")
    refuse_inputs([tmp_path / "out.png"], [Path("a" * 5000), Path("a\0b"), tmp_path / "none.png"])
