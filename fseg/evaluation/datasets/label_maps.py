"""Files of true labels: what their pixel values mean, and predictions written in the same values."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image, UnidentifiedImageError

from fseg.drawing.label_map import save_labels
from fseg.errors import InvalidTruth
from fseg.vocabulary.labels import IGNORED
from probe.inputs.images import OPENING

ABSENT_FROM_COCO = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Of COCO's ids, counted from 0, those that were planned and never annotated."""

LAST_THING = 90
"""COCO's ids above this are stuff."""

STUFF_IDS = tuple(value for value in range(182) if value not in ABSENT_FROM_COCO)
"""The ids in a raw stuffthingmap, in the order of the 171 labels."""

MOST_PIXELS = 178_956_970
"""The largest label map that is decoded: as large as the largest image that Pillow opens unless it is told otherwise."""


@dataclass(frozen=True)
class LabelValues:
    """The pixel values of a set's truth.

    Attributes:
        labels: for each value that may occur, the label 0..C-1 that it stands for, or 255: ignored.
        values: for each label, and for 255, the value that stands for it in a file.
    """

    labels: Mapping[int, int]
    values: Mapping[int, int]


def as_they_are(count: int) -> LabelValues:
    """Labels 0..count - 1 stored as themselves, 255 ignored."""
    return _one_to_one({value: value for value in range(count)} | {IGNORED: IGNORED})


def shifted(count: int) -> LabelValues:
    """ADE20K: 0 is ignored, value v is the label v - 1."""
    return _one_to_one({0: IGNORED} | {label + 1: label for label in range(count)})


def stuff_ids() -> LabelValues:
    """COCO-Stuff from raw stuffthingmaps: the ids 0..181 without those never annotated become 0..170; 255 is ignored."""
    return _one_to_one({value: label for label, value in enumerate(STUFF_IDS)} | {IGNORED: IGNORED})


def object_ids() -> LabelValues:
    """COCO-Object from raw stuffthingmaps: a thing's label is its number + 1; stuff and 255 are background, so that no pixel is ignored."""
    things = {value: label + 1 for label, value in enumerate(STUFF_IDS) if value <= LAST_THING}
    background = {value: 0 for value in (*STUFF_IDS, IGNORED) if value not in things}
    return LabelValues(things | background, {label: value for value, label in things.items()} | {0: IGNORED, IGNORED: IGNORED})


def _one_to_one(labels: Mapping[int, int]) -> LabelValues:
    return LabelValues(labels, {label: value for value, label in labels.items()})


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
