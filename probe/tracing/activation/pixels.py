"""From maps on a grid of cells to maps on the pixels of the original image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probe.tokens.layout import Grid, Intervals, whole_box

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


def upsample(values: Float[Tensor, "row col"], grid: Grid, resample: str = "bilinear") -> Float[Tensor, "height width"]:
    """A map of a grid's cells at the size of the image, float32, corners not aligned.

    Pixels that no cell covers take the value at the nearest edge of a cell.

    Args:
        resample: the filter between the centres of cells, "bilinear", "bicubic" or "nearest".
    """
    if grid.box == whole_box(grid.image_size) and not (grid.row_shares or grid.col_shares):
        maps = values[None, None].float()
        if resample == "nearest":
            return torch.nn.functional.interpolate(maps, size=grid.image_size, mode="nearest-exact")[0, 0]
        return torch.nn.functional.interpolate(maps, size=grid.image_size, mode=resample, align_corners=False)[0, 0]
    return sample(values, grid.pixel_coordinates(nearest=True), resample)


def area_shares(cells: Intervals, patches: Intervals) -> Float[Tensor, "cell patch"]:
    """Which share of each row (or column) of cells lies on each row (or column) of patches; each cell's sum to 1.

    A cell that lies on none takes the nearest.
    """
    (starts, ends), (first, last) = torch.tensor(cells, dtype=torch.float64).T, torch.tensor(patches, dtype=torch.float64).T
    shared = (torch.minimum(ends[:, None], last) - torch.maximum(starts[:, None], first)).clamp(min=0)
    nearest = (starts + ends)[:, None].sub(first + last).abs().argmin(1)
    shared[(shared.sum(1) == 0).nonzero()[:, 0], nearest[shared.sum(1) == 0]] = 1.0
    return shared / shared.sum(1, keepdim=True)
