"""From maps on a grid of cells to maps on the pixels of the original image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probe.tokens.layout import Grid

Coordinates = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rows and columns in a grid's coordinates, as `Grid.pixel_coordinates` gives them."""


def sample_pixels(cells: Float[Tensor, "*batch row col"], grid: Grid) -> Float[Tensor, "*batch height width"]:
    """The values of a grid's cells at every pixel of the original image, float32.

    Bilinear between cell centres; NaN where no cell covers a pixel.
    """
    return sample(cells, grid.pixel_coordinates())


def sample(
    cells: Float[Tensor, "*batch row col"], coordinates: Coordinates, mode: str = "bilinear"
) -> Float[Tensor, "*batch height width"]:
    """The values of a grid's cells at rows and columns in its coordinates, float32; NaN where one is NaN.

    Args:
        mode: the filter between cell centres: "bilinear", "bicubic" or "nearest".
    """
    maps = cells.float().reshape(-1, 1, *cells.shape[-2:])
    down, across = (torch.from_numpy(positions).to(maps) for positions in coordinates)
    x, y = ((positions + 0.5) / count * 2 - 1 for positions, count in ((across, cells.shape[-1]), (down, cells.shape[-2])))
    places = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)[None]
    values = torch.nn.functional.grid_sample(
        maps, places.expand(len(maps), -1, -1, -1), mode=mode, padding_mode="border", align_corners=False
    )
    covered = ~(x.isnan()[None, :] | y.isnan()[:, None])
    return torch.where(covered, values, torch.nan).reshape(*cells.shape[:-2], len(down), len(across))
