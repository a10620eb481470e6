"""Image tokens after strided convolutions, whose receptive fields are centred up to half a cell to the upper left."""

from __future__ import annotations

from dataclasses import replace

from probe.tokens.layout import Grid


def centred_on_receptive_fields(grid: Grid, stride: int) -> Grid:
    """The grid, its cells moved onto the centres of their receptive fields.

    Kernels are odd and padding is even, so a receptive field's centre is the first of a cell's `stride` units, not their middle.
    """
    shift = (stride - 1) / (2 * stride)
    x0, y0, x1, y1 = grid.box
    right, down = (x1 - x0) / grid.cols * shift, (y1 - y0) / grid.rows * shift
    return replace(grid, box=(x0 - right, y0 - down, x1 - right, y1 - down))
