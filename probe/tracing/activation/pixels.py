"""From maps on a grid of cells to maps on the pixels of the original image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probe.tokens.layout import Grid


def sample_pixels(cells: Float[Tensor, "*batch row col"], grid: Grid) -> Float[Tensor, "*batch height width"]:
    """The values of a grid's cells at every pixel of the original image, float32.

    Bilinear between cell centres; NaN where no cell covers a pixel.
    """
    height, width = grid.image_size
    maps = cells.float().reshape(-1, 1, *cells.shape[-2:])
    down, across = (torch.from_numpy(centres).to(maps) for centres in grid.pixel_coordinates())
    x, y = ((centres + 0.5) / count * 2 - 1 for centres, count in ((across, grid.cols), (down, grid.rows)))
    samples = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)[None]
    pixels = torch.nn.functional.grid_sample(
        maps, samples.expand(len(maps), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
    covered = ~(x.isnan()[None, :] | y.isnan()[:, None])
    return torch.where(covered, pixels, torch.nan).reshape(*cells.shape[:-2], height, width)
