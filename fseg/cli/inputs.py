"""What `fseg segment` is given: files, folders of images, patterns, and an image on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from probe.errors import ImageError
from probe.inputs.images import ImageLike, decoded_image, is_image_file

STANDARD_INPUT = Path("stdin")
"""The name of an image that comes from standard input."""


def images_of(arguments: Sequence[Path]) -> dict[Path, ImageLike]:
    """The images that the arguments name: the name of each -> what is opened. An image that is named twice is there once.

    A folder stands for the image files directly in it, and a pattern that is no file's name for the image files that match it (`**`: in
    folders of any depth), both in alphabetical order; "-" for the image whose bytes come from standard input. Anything else is a file.

    Raises:
        ImageError: a folder or a pattern without an image file, or standard input is a terminal or is not an image.
    """
    return {name: image for argument in arguments for name, image in _named(argument)}


def _named(argument: Path) -> Iterator[tuple[Path, ImageLike]]:
    if str(argument) == "-":
        yield STANDARD_INPUT, _from_standard_input()
    elif os.path.isdir(argument):
        yield from _listed(_files(argument), f"The folder {str(argument)!r} holds no image file. Name another, or the files themselves.")
    elif has_magic(str(argument)) and not os.path.lexists(argument):
        matches = map(Path, glob(str(argument), recursive=True))
        yield from _listed(matches, f"No image file matches {str(argument)!r}. Check the pattern; it starts at the current folder.")
    else:
        yield argument, argument


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ImageError(f"The images of {str(folder)!r} cannot be listed: {error.strerror}. Change the folder's permissions.") from error


def _listed(paths: Iterable[Path], otherwise: str) -> Iterator[tuple[Path, ImageLike]]:
    files = sorted(filter(is_image_file, paths))
    if not files:
        raise ImageError(otherwise)
    yield from ((file, file) for file in files)


def _from_standard_input() -> ImageLike:
    if sys.stdin.isatty():
        raise ImageError("- reads an image from standard input, which is a terminal. Redirect a file into it: fseg segment - < street.jpg.")
    return decoded_image(sys.stdin.buffer.read(), "Standard input")
