"""Checks a grid against the image itself: paint over one cell, and the token of that cell has to change most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from probe.model import Probe
from probe.tokens.layout import Box, Grid
from probe.tracing.activation import Activation
from probe.tracing.reads import Hidden, Projected
from probe.verification.report import Check

PAINTINGS = ((255, 1.0), (0, 1.0), (None, 0.3))
"""(grey value, share): a cell's pixels are moved by this share towards a grey value (None: towards their own opposite)."""

Cell = tuple[int, int]
"""The row and column of a grid's cell."""


QUESTION = "What is in the picture?"


def image_tokens(model: Probe, image: Image.Image) -> Activation:
    """The image tokens (batch, token, feature) as the first block takes them; several residual streams lie side by side in the features."""
    encoding = model.encode(image, QUESTION)
    if "Projected" in model.modules.unreadable:
        return model.run(encoding, Hidden(0, at="image")).hidden(layer=0)
    return model.run(encoding, Projected()).projected()


def grid_title(grid: Grid) -> str:
    """The name of a grid's check."""
    return f"Grid {grid.name!r}, {grid.rows} x {grid.cols}"


def inner_cells(grid: Grid, rng: np.random.Generator, count: int) -> list[Cell]:
    """Random cells that lie on the image, with at least two pixels a side."""

    def inside(axis: int) -> list[int]:
        length = grid.image_size[axis]
        return [
            cell for cell, (start, end) in enumerate(grid.intervals(axis)) if start >= -0.5 and end <= length + 0.5 and end - start >= 2
        ]

    rows, cols = inside(0), inside(1)
    fitting = [(row, col) for row in rows for col in cols]
    return [fitting[i] for i in rng.permutation(len(fitting))[:count]]


def check_grid(
    image: Image.Image, projected: Activation, grid: Grid, cells: Sequence[Cell], project: Callable[[Image.Image], Activation]
) -> Check:
    """Whether the token that changes most when a cell is painted over is the cell's own.

    A single painting can draw a new object, which may change other tokens more than the cell's own. So each cell is painted in several
    ways. Each way has equal weight: tokens are compared by their change as a share of the largest change.

    Args:
        projected: the image tokens of the unchanged image.
        project: returns the image tokens (batch, token, feature) at the input of layer 0.
    """
    wrong = 0
    for row, col in cells:
        shares = torch.zeros(len(grid.tokens))
        for grey, amount in PAINTINGS:
            after = project(paint_cell(image, grid.cell_box(row, col), grey, amount)).data
            change = (after - projected.data)[0].float().norm(dim=-1).cpu()[list(grid.tokens)]
            shares += change / change.max().clamp(min=torch.finfo(change.dtype).tiny)  # a cell that was black already does not change
        wrong += int(shares.argmax()) != row * grid.cols + col
    ways = f"{len(cells)} cells painted over, one at a time, in {len(PAINTINGS)} ways"
    return Check(grid_title(grid), wrong / len(cells), 0.0, ways)


def paint_cell(image: Image.Image, box: Box, grey: int | None, amount: float) -> Image.Image:
    """The image with the pixels in a box moved towards a grey value.

    Args:
        grey: None: each pixel moves towards its own opposite.
        amount: share of the way, 0 to 1.
    """
    x0, y0, x1, y1 = (round(edge) for edge in box)
    pixels = np.array(image, dtype=np.float64)
    cell = pixels[y0:y1, x0:x1]
    cell += amount * ((255 - cell if grey is None else grey) - cell)
    return Image.fromarray(pixels.round().astype(np.uint8))
