"""What a command is given becomes images: files, folders, patterns, standard input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TextIO

import pytest
from PIL import Image

from fseg.cli.inputs import images_of
from probe.errors import ImageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder "photos" of three images, one of them deeper, and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "old").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "old/c.png", "notes.txt", "[1].png"):
        (tmp_path / "photos" / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["photos"], ["photos/[1].png", "photos/a.png", "photos/b.JPG"]),
        (["photos/*"], ["photos/[1].png", "photos/a.png", "photos/b.JPG"]),
        (["photos/**/*.png"], ["photos/[1].png", "photos/a.png", "photos/old/c.png"]),
        (["photos/[1].png"], ["photos/[1].png"]),  # a file of that name, not a pattern
        (["photos/b.JPG", "photos/?.*"], ["photos/b.JPG", "photos/a.png"]),
        (["photos/notes.txt", "none.png", "a" * 5000], ["photos/notes.txt", "none.png", "a" * 5000]),  # each fails when it is opened
    ],
    ids=["a folder", "a pattern", "folders of any depth", "brackets", "named twice", "no images"],
)
def test_the_images_of_arguments(photos: Path, arguments: list[str], names: list[str]) -> None:
    paths = [Path(name) for name in names]
    assert images_of([Path(argument) for argument in arguments]) == dict(zip(paths, paths, strict=True))


@pytest.mark.parametrize(
    ("argument", "message"),
    [("photos/old/*.jpg", "No image file matches 'photos/old/..jpg'"), ("empty", "The folder 'empty' holds no image file")],
)
def test_a_folder_or_a_pattern_without_an_image_is_refused(photos: Path, argument: str, message: str) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(ImageError, match=message):
        images_of([Path(argument)])


def piped(content: bytes) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(content))


def test_an_image_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(content, "PNG")
    monkeypatch.setattr("sys.stdin", piped(content.getvalue()))
    assert images_of([Path("-"), Path("x.png")]) == {Path("stdin"): Image.new("RGB", (3, 2), "red"), Path("x.png"): Path("x.png")}


def test_standard_input_that_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", piped(b"no image"))
    with pytest.raises(ImageError, match="Standard input is not an image"):
        images_of([Path("-")])
    terminal = piped(b"")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(ImageError, match="which is a terminal"):
        images_of([Path("-")])
