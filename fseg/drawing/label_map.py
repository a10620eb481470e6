"""Label maps as images: PNG files of labels, and overlays of labels on their image."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fseg.drawing.palette import class_palette, palette
from fseg.errors import CannotDraw
from fseg.labels.values import BACKGROUND, IGNORED
from probe.disk.files import write_atomically


def save_labels(path: str | os.PathLike[str], labels: Tensor | ArrayLike, classes: Sequence[str] | None = None) -> None:
    """Write a label map (height, width) as a PNG with a palette; its pixel values are the labels themselves.

    The file is written atomically.

    Args:
        classes: the colours are those of these classes, as in `overlay`; None: PASCAL VOC's, by label.

    Raises:
        CannotDraw: a label is not in 0..255, the range of such a PNG.
        OutputError: the file cannot be written.
    """
    indexed = Image.fromarray(checked_labels(labels).astype(np.uint8)).convert("P")
    indexed.putpalette((palette() if classes is None else class_palette(classes)).tobytes())
    write_atomically(Path(path), lambda file: indexed.save(file, format="PNG"))


def overlay(
    image: Image.Image, labels: Tensor | ArrayLike, classes: Sequence[str], *, opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """The image with its labels drawn over it in colour, regions outlined, and a legend of the classes below.

    Args:
        image: RGB.
        labels: (height, width) of the image; 0 background, i + 1 = classes[i], 255 ignored.
        classes: their names, which give the colours (`class_palette`).
        opacity: of the colours, 0 to 1.
        legend: draw the names below the image. Without them the result has the size of the image.

    Raises:
        CannotDraw: labels of another size than the image, or beyond the classes.

    >>> scene = fseg.glyphs.scene(1)
    >>> overlay(scene.image, scene.labels, fseg.glyphs.CLASSES, legend=False).size == scene.image.size
    True
    """
    values = checked_labels(labels, image, classes)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    strength = np.where(values == BACKGROUND, 0.0, np.where(_outline(values), 1.0, opacity)).astype(np.float32)[..., None]
    colours = class_palette(classes)
    painted = Image.fromarray((pixels + strength * (colours[values] - pixels) + 0.5).astype(np.uint8))
    return _with_legend(painted, shown_names(values, classes), colours) if legend else painted


def checked_labels(labels: Tensor | ArrayLike, image: Image.Image | None = None, classes: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Labels as int64 (height, width).

    Raises:
        CannotDraw: they do not fit the image, the classes or the palette.
    """
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


def shown_names(values: NDArray[np.int64], classes: Sequence[str]) -> dict[int, str]:
    """The names of the labels that occur, without background."""
    names = {index + 1: name for index, name in enumerate(classes)} | ({IGNORED: "ignored"} if len(classes) < IGNORED else {})
    return {label: names[label] for label in np.unique(values).tolist() if label != BACKGROUND}


def _outline(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels with a neighbour of another label below, above, right or left."""
    edge = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        changes = np.diff(values, axis=axis) != 0
        first, last = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        first[axis], last[axis] = (0, 1), (1, 0)
        edge |= np.pad(changes, first) | np.pad(changes, last)
    return edge


def _with_legend(image: Image.Image, shown: Mapping[int, str], colours: UInt8[np.ndarray, "256 3"]) -> Image.Image:
    """The image above a white strip with colours and names, in as many rows as needed; a narrow image is padded to the width of a name."""
    if not shown:
        return image
    size = min(max(12, max(image.size) // 40), 48)
    from fseg.drawing.fonts import file_for  # imports matplotlib: a result without a legend does not wait for it

    font = ImageFont.truetype(str(file_for("".join(shown.values()))), size)
    widths = {label: math.ceil(font.getlength(name)) + 3 * size for label, name in shown.items()}
    width = max(image.width, max(widths.values()))
    rows: list[list[int]] = [[]]
    for label in shown:
        if rows[-1] and sum(widths[other] for other in rows[-1]) + widths[label] > width:
            rows.append([])
        rows[-1].append(label)
    page = Image.new("RGB", (width, image.height + math.ceil(1.6 * size * len(rows) + 0.6 * size)), "white")
    page.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        x, y = size // 2, image.height + round(1.6 * size * number + 0.6 * size)
        for label in row:
            red, green, blue = colours[label].tolist()
            draw.rectangle((x, y, x + size, y + size), fill=(red, green, blue))
            draw.text((x + round(1.4 * size), y + size / 2), shown[label], fill="black", font=font, anchor="lm")
            x += widths[label]
    return page
