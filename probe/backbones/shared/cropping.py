"""What CLIP's image processor, and those made like it, show of an image: padded to a square, resized, cropped to the centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.tokens.layout import Box, whole_box

if TYPE_CHECKING:
    from transformers import BaseImageProcessor


def processed_box(image_processor: BaseImageProcessor, image_size: tuple[int, int]) -> Box:
    """The part of an image, in its own pixels, that a CLIP-like image processor shows the tower."""
    if getattr(image_processor, "do_pad", False):
        return _padded_to_square(image_size)
    size = dict(image_processor.size)
    edge = size.get("shortest_edge") if image_processor.do_resize else None
    if not image_processor.do_center_crop:
        return whole_box(image_size)
    if image_processor.do_resize and edge is None:
        return _centre_of_stretched(image_size, size, dict(image_processor.crop_size))
    return _centre_crop(image_size, edge, dict(image_processor.crop_size))


def _padded_to_square(image_size: tuple[int, int]) -> Box:
    height, width = image_size
    side = max(height, width)
    x, y = (side - width) // 2, (side - height) // 2
    return (-float(x), -float(y), float(side - x), float(side - y))


def _centre_of_stretched(image_size: tuple[int, int], size: dict[str, int], crop: dict[str, int]) -> Box:
    """The centre of an image that is resized to (height, width), whatever its aspect ratio."""
    (height, width), (down, across) = image_size, (image_size[axis] / size[name] for axis, name in enumerate(("height", "width")))
    top, left = ((size[name] - crop[name]) // 2 for name in ("height", "width"))
    x0, y0, x1, y1 = left * across, top * down, (left + crop["width"]) * across, (top + crop["height"]) * down
    return whole_box((height, width)) if crop == size else (x0, y0, x1, y1)


def _centre_crop(image_size: tuple[int, int], edge: int | None, crop: dict[str, int]) -> Box:
    """The centre of an image whose shorter edge is resized to `edge` pixels (None: it is not resized)."""
    height, width = image_size
    scale, resized = 1.0, image_size
    if edge is not None:
        scale = edge / min(height, width)
        resized = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
    top, left = (resized[0] - crop["height"]) // 2, (resized[1] - crop["width"]) // 2
    return (left / scale, top / scale, (left + crop["width"]) / scale, (top + crop["height"]) / scale)


def fitted_square(image_size: tuple[int, int], edge: int, least: int = 0) -> Box:
    """What a square shows whose longer edge the image fills, in the middle of padding, in pixels of the original image.

    Args:
        image_size: (height, width) of the original image.
        edge: pixels across the square.
        least: the image's shorter edge is resized to at least as many pixels.
    """
    resized = [max(round(length * edge / max(image_size)), least) for length in image_size]
    ends = [(-((edge - length) // 2), edge - (edge - length) // 2) for length in resized]
    (top, bottom), (left, right) = (
        (start / length * pixels, end / length * pixels) for (start, end), length, pixels in zip(ends, resized, image_size, strict=True)
    )
    return (left, top, right, bottom)
