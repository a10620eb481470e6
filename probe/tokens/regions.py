"""Regions of an image, boxes or masks of pixels, and the shares of cells that they cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probe.errors import InvalidRead

Region = tuple[float, float, float, float] | NDArray[np.bool_]
"""(x0, y0, x1, y1) in pixels of the original image, or a boolean mask (height, width) of it."""
_Edges = Sequence[tuple[float, float]]


def covered_shares(rows: _Edges, cols: _Edges, image_size: tuple[int, int], region: Region) -> NDArray[np.float64]:
    """The share of each cell's pixels that a region covers: (row, col). Of a cell that reaches past the image, its part inside counts.

    Args:
        rows, cols: where each row and column of cells begins and ends, in pixels.
        image_size: (height, width).

    Raises:
        InvalidRead: neither a box nor a boolean mask of the image's size.
    """
    down, across = (_within_pixels(edges, pixels) for edges, pixels in zip((rows, cols), image_size, strict=True))
    if isinstance(region, np.ndarray) and region.ndim == 2:
        if region.shape != tuple(image_size) or region.dtype != np.bool_:
            raise InvalidRead(
                f"A mask of {region.dtype} {region.shape} was given for an image of (height, width) {tuple(image_size)}. Pass a boolean mask of "
                "that size, such as heat > 0.5."
            )
        covered = np.asarray(down @ region @ across.T, dtype=np.float64)
    else:
        left, top, right, bottom = _box(region)
        covered = np.outer(_within(rows, top, bottom, image_size[0]), _within(cols, left, right, image_size[1])).astype(np.float64)
    inside = np.outer(down.sum(1), across.sum(1))
    return np.divide(covered, inside, out=np.zeros_like(inside), where=inside > 0)


def _box(region: object) -> tuple[float, float, float, float]:
    values = np.asarray(region, dtype=object).ravel().tolist() if not isinstance(region, str) else []
    numbers = [float(value) for value in values if isinstance(value, (int, float, np.number)) and np.isfinite(value)]
    if len(values) != 4 or len(numbers) != 4 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise InvalidRead(
            f"region={region!r}: a box (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1, or a boolean mask (height, width)."
        )
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


def _within_pixels(edges: _Edges, pixels: int) -> NDArray[np.float64]:
    """How much of each pixel each interval covers: (interval, pixel)."""
    starts, ends = np.asarray(edges, dtype=np.float64).reshape(-1, 2).T[..., None]
    first = np.arange(pixels)
    return np.clip(np.minimum(ends, first + 1) - np.maximum(starts, first), 0, None)


def _within(edges: _Edges, start: float, end: float, pixels: int) -> NDArray[np.float64]:
    """The length of each interval between two pixels of the image."""
    starts, ends = np.asarray(edges, dtype=np.float64).reshape(-1, 2).T
    return np.clip(np.minimum(ends, min(end, pixels)) - np.maximum(starts, max(start, 0)), 0, None)
