"""Label maps as pictures: the colours of PASCAL VOC, files of labels, and labels laid over the image that they are of."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fseg.errors import CannotDraw
from fseg.files import write_atomically
from fseg.vocabulary.labels import BACKGROUND, IGNORED


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC: RGB by label, 0 black, 255 the pale yellow of ignored pixels. The array cannot be written to.

    The bits of a label are dealt to red, green and blue in turn, and fill each colour from its highest bit down.
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for channel in range(3):
        for place, bit in enumerate(range(channel, 8, 3)):
            colours[:, channel] |= ((labels >> bit & 1) << (7 - place)).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def save_labels(path: str | os.PathLike[str], labels: Tensor | ArrayLike) -> None:
    """Write a label map (height, width) as a PNG in the colours of PASCAL VOC; its pixel values are the labels themselves.

    The file appears whole or not at all.

    Raises:
        CannotDraw: a label is not in 0..255, which is all that such a PNG holds.
        OutputError: the file cannot be written.
    """
    picture = Image.fromarray(checked_labels(labels).astype(np.uint8)).convert("P")
    picture.putpalette(palette().tobytes())
    write_atomically(Path(path), lambda file: picture.save(file, format="PNG"))


def overlay(
    image: Image.Image, labels: Tensor | ArrayLike, classes: Sequence[str], *, opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """The image under the colours of its labels, each region outlined, and below it the names of the classes that it shows.

    Args:
        image: RGB.
        labels: (height, width) of the image; 0 background, i + 1 = classes[i], 255 ignored.
        classes: their names.
        opacity: of the colours, 0 to 1.
        legend: draw the names. Without them the picture keeps its size.

    Raises:
        CannotDraw: labels of another size than the image, or beyond the classes.
    """
    values = checked_labels(labels, image, classes)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    strength = np.where(values == BACKGROUND, 0.0, np.where(_outline(values), 1.0, opacity)).astype(np.float32)[..., None]
    painted = Image.fromarray((pixels + strength * (palette()[values] - pixels) + 0.5).astype(np.uint8))
    return _with_legend(painted, shown_names(values, classes)) if legend else painted


def checked_labels(labels: Any, image: Image.Image | None = None, classes: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Labels as int64 (height, width), which fit the image, the classes and the palette."""
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels).astype(np.int64)
    if values.ndim != 2 or (image is not None and values.shape != (image.height, image.width)):
        wanted = "(height, width)" if image is None else f"{(image.height, image.width)}, the (height, width) of the image"
        raise CannotDraw(f"Labels of shape {values.shape} were given, and should have the shape {wanted}.")
    largest = IGNORED if classes is None else min(len(classes), IGNORED)
    beyond = np.unique(values[(values < 0) | ((values > largest) & (values != IGNORED))])
    if beyond.size:
        known = (
            "a PNG of labels holds 0 to 255"
            if classes is None
            else f"with {len(classes)} classes, 0 to {largest} and {IGNORED} can be drawn"
        )
        raise CannotDraw(f"There are labels {', '.join(map(str, beyond[:5].tolist()))}: {known}.")
    return values


def shown_names(values: NDArray[Any], classes: Sequence[str]) -> dict[int, str]:
    """Names of the labels that occur, background left out."""
    names = {index + 1: name for index, name in enumerate(classes)} | ({IGNORED: "ignored"} if len(classes) < IGNORED else {})
    return {label: names[label] for label in np.unique(values).tolist() if label != BACKGROUND}


def _outline(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels of each region that touch another label below, above, right or left."""
    edge = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        changes = np.diff(values, axis=axis) != 0
        first, last = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        first[axis], last[axis] = (0, 1), (1, 0)
        edge |= np.pad(changes, first) | np.pad(changes, last)
    return edge


def _with_legend(picture: Image.Image, shown: Mapping[int, str]) -> Image.Image:
    """The picture above a white strip of swatches and names, in as many rows as they need; the strip is widened for a tiny picture."""
    if not shown:
        return picture
    size = min(max(12, max(picture.size) // 40), 48)
    import matplotlib  # only for its font: a result without a legend does not wait for it

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    widths = {label: math.ceil(font.getlength(name)) + 3 * size for label, name in shown.items()}
    width = max(picture.width, max(widths.values()))
    rows: list[list[int]] = [[]]
    for label in shown:
        if rows[-1] and sum(widths[other] for other in rows[-1]) + widths[label] > width:
            rows.append([])
        rows[-1].append(label)
    page = Image.new("RGB", (width, picture.height + math.ceil(1.6 * size * len(rows) + 0.6 * size)), "white")
    page.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        x, y = size // 2, picture.height + round(1.6 * size * number + 0.6 * size)
        for label in row:
            red, green, blue = palette()[label].tolist()
            draw.rectangle((x, y, x + size, y + size), fill=(red, green, blue))
            draw.text((x + round(1.4 * size), y + size / 2), shown[label], fill="black", font=font, anchor="lm")
            x += widths[label]
    return page
