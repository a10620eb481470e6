"""From an axis of tokens to the rows and columns of an image's cells, or to the frames, rows and columns of a video's."""

from __future__ import annotations

import torch
from torch import Tensor

from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout


def fold(
    data: Tensor, dims: tuple[str, ...], dim: str, layout: ImageLayout | VideoLayout, view: str | None
) -> tuple[Tensor, tuple[str, ...], dict[str, tuple[int, ...]], Grid]:
    """One axis of a tensor folded to (row, col), or to (frame, row, col), tokens that are no cell left out.

    Args:
        dim: the axis, one of `dims`.
        view: which view of an image; None: its only one.

    Returns:
        the tensor, its axes, the labels of the axis `frame`, which are the first frames that the steps show, and the grid of a step.
    """
    axis, grid = dims.index(dim), layout.grid(view)
    cells, sizes, labels = grid.tokens, {"row": grid.rows, "col": grid.cols}, {}
    if isinstance(layout, VideoLayout):
        cells, sizes = layout.cells, {"frame": len(layout.grids), **sizes}
        labels = {"frame": tuple(frames[0] for frames in layout.frames)}
    maps = data.index_select(axis, torch.tensor(cells, device=data.device)).unflatten(axis, list(sizes.values()))
    return maps, (*dims[:axis], *sizes, *dims[axis + 1 :]), labels, grid
