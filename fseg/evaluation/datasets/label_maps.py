"""Files of true labels: what their pixel values mean, and predictions written in the same values."""

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
from fseg.vocabulary.labels import IGNORED
from probe.inputs.images import OPENING

MOST_PIXELS = 178_956_970
"""The largest label map that is decoded: as large as the largest image that Pillow opens unless it is told otherwise."""


def read_truth(path: Path, meaning: LabelValues) -> Int64[np.ndarray, "height width"]:
    """The labels of a file, 0..C-1, 255 where they are ignored.

    Raises:
        InvalidTruth: the file cannot be read, is no regular file or too large (known before it is decoded), is a colour picture, or has
            a value that the set does not know.
    """
    return read_truth_and_bytes(path, meaning)[0]


def read_truth_and_bytes(path: Path, meaning: LabelValues) -> tuple[Int64[np.ndarray, "height width"], bytes]:
    """What `read_truth` gives, and the bytes that it was decoded from: one reading for both."""
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
    """Write labels as a palette PNG in the values of the set's own truth; `read_truth` gives them back.

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
            # Pillow warns of pictures of half the size at which it refuses them; labels are as large as their image.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(content))
        with opened:
            _check_size(path, opened)
            opened.load()
            mode, values = opened.mode, np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidTruth(
            f"The labels {_shown(path)} cannot be read ({_reason(error)}): the file is damaged, too large or no picture. Get it again."
        ) from error
    if mode not in ("P", "L"):
        raise InvalidTruth(
            f"{_shown(path)} is a picture of mode {mode}; labels are one value of 8 bits a pixel. "
            "A palette PNG that was opened as RGB and saved has lost them: take the file as it was distributed."
        )
    return values, content


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow reads"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _check_regular(path: Path) -> None:
    """Refuse what is no file before it is opened: a pipe would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidTruth(f"The labels {_shown(path)} are no regular file. Name the picture that holds them.")


def _check_size(path: Path, opened: Image.Image) -> None:
    """Refuse what its header says is too large before it is decoded, also in a program that has lifted Pillow's own limit."""
    if opened.width * opened.height > MOST_PIXELS:
        raise InvalidTruth(
            f"The labels {_shown(path)} have {opened.height} x {opened.width} pixels; {MOST_PIXELS} are the most that is read. "
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
