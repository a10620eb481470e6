"""Label files: the ground truth read as labels, and predictions written in the same pixel values."""

from __future__ import annotations

import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image, UnidentifiedImageError

from fseg.drawing.label_map import save_labels
from fseg.errors import InvalidTruth
from fseg.evaluation.datasets.label_values import LabelValues
from fseg.labels.values import IGNORED
from probe.inputs.images import OPENING

MOST_PIXELS = 178_956_970
"""The largest label map that is decoded: Pillow's default limit for images."""


def read_truth(path: Path, meaning: LabelValues) -> Int64[np.ndarray, "height width"]:
    """The labels of a file: 0..C-1, or 255 for ignored pixels.

    Raises:
        InvalidTruth: the file cannot be read, is no regular file or too large (known before it is decoded), is a colour image, or has
            a value that the set does not know.
    """
    return read_truth_and_bytes(path, meaning)[0]


def read_truth_and_bytes(path: Path, meaning: LabelValues) -> tuple[Int64[np.ndarray, "height width"], bytes]:
    """The labels that `read_truth` returns, and the bytes that they were decoded from, read once."""
    values, content = _pixel_values(path)
    table = np.full(256, -1, dtype=np.int64)
    table[list(meaning.labels)] = list(meaning.labels.values())
    labels: Int64[np.ndarray, "height width"] = table[values]
    if (labels < 0).any():
        strange = np.unique(values[labels < 0]).tolist()
        raise InvalidTruth(
            f"{_shown(path)} has the values {', '.join(map(str, strange[:5]))}, which stand for no label here: "
            f"{_ranges(sorted(meaning.labels))} do. Are these the labels of this data set, in this conversion?"
        )
    return labels, content


def write_mask(path: Path, labels: Int64[np.ndarray, "height width"], meaning: LabelValues) -> None:
    """Write labels as a palette PNG in the pixel values of the set's own ground truth.

    `read_truth` reads them back.

    Raises:
        OutputError: the file cannot be written.
    """
    table = np.full(256, IGNORED, dtype=np.int64)
    table[list(meaning.values)] = list(meaning.values.values())
    save_labels(path, table[labels])


def _pixel_values(path: Path) -> tuple[np.ndarray[Any, Any], bytes]:
    try:
        _check_regular(path)
        content = path.read_bytes()
        with OPENING, warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses an image; labels are as large as their image.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(content))
        with opened:
            _check_size(path, opened)
            opened.load()
            mode, values = opened.mode, np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidTruth(
            f"The labels {_shown(path)} cannot be read ({_reason(error)}): the file is damaged, too large or no image. Get it again."
        ) from error
    if mode not in ("P", "L"):
        raise InvalidTruth(
            f"{_shown(path)} is an image of mode {mode}; labels are one value of 8 bits a pixel. "
            "A palette PNG that was opened as RGB and saved has lost them: take the file as it was distributed."
        )
    return values, content


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow reads"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _check_regular(path: Path) -> None:
    """Refuse anything but a file before it is opened: opening a pipe would block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidTruth(f"The labels {_shown(path)} are no regular file. Name the image file that holds them.")


def _check_size(path: Path, opened: Image.Image) -> None:
    """Refuse too large an image before it is decoded, even where Pillow's own limit is off."""
    if opened.width * opened.height > MOST_PIXELS:
        raise InvalidTruth(
            f"The labels {_shown(path)} have {opened.height} x {opened.width} pixels; the limit is {MOST_PIXELS}. "
            "Check the file, or cut image and labels into parts."
        )


def _shown(path: Path) -> str:
    text = str(path)
    return repr(text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}")


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 255] as "0..2, 255"."""
    starts = [n for n in numbers if n - 1 not in numbers]
    stops = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, stops, strict=True))
