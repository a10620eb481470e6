"""Prompts for SAM (paper, section 3.4): points and a box from the refined mask, in pixels of the original image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from attrs import field, frozen
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from fseg.checks import check_bool, check_choice, check_int, check_number, checked
from fseg.errors import NoMap
from fseg.evidence import STUFF, Evidence
from probe.tokens.layout import Box, Grid

KINDS = ("point", "box", "both")
Point = tuple[float, float]


def components(mask: Bool[Tensor, "row col"], min_patches: int = 2) -> list[NDArray[np.intp]]:
    """The 8-connected components of at least `min_patches` cells; the largest component, if all are smaller.

    Returns:
        one array (cell, 2) of (row, col) each, in the order of their first cells, row by row.
    """
    from scipy import ndimage  # imported with the first mask: `import fseg` does not wait for SciPy

    labels, count = ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3)))
    every = [np.argwhere(labels == number) for number in range(1, count + 1)]
    return [cells for cells in every if len(cells) >= min_patches] or sorted(every, key=len, reverse=True)[:1]


def centroid(cells: NDArray[np.intp], snap: bool = False) -> tuple[float, float]:
    """Mean (row, col) of a component, or with `snap` its cell nearest to that mean: the mean of a ring lies outside the ring."""
    mean = cells.mean(axis=0)
    row, col = cells[((cells - mean) ** 2).sum(axis=1).argmin()] if snap else mean
    return float(row), float(col)


def spread(mask: Bool[Tensor, "row col"], count: int) -> NDArray[np.intp]:
    """At most `count` cells of a mask, spread over it: first that nearest to its mean, then each time the cell farthest from those chosen.

    Cells whose eight neighbours all belong to the mask are preferred: at its edge, a cell may show more of the neighbour. Beyond the edge of
    the grid, nothing is known to be missing.

    Returns:
        (cell, 2) of (row, col), in the order in which they were chosen.
    """
    from scipy import ndimage

    every = mask.cpu().numpy()
    inner = ndimage.binary_erosion(every, np.ones((3, 3)), border_value=1)
    cells = np.argwhere(inner if inner.sum() >= count else every)
    distance = ((cells - cells.mean(axis=0)) ** 2).sum(axis=1)
    chosen = [int(distance.argmin())]
    distance = np.full(len(cells), np.inf)
    while len(chosen) < min(count, len(cells)):
        distance = np.minimum(distance, ((cells - cells[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return cells[chosen]


def to_pixel(row: float, col: float, grid: Grid) -> Point:
    """The pixel (x, y) at the centre of a cell: pixel 0 is centred on 0, so a cell of one pixel gives that pixel.

    A centre outside the image, in a cell that shows mostly padding or is smaller than a pixel, gives the nearest pixel.
    """
    centres = (grid.centres(axis) for axis in (0, 1))
    y, x = (
        _inside(float(np.interp(position, range(len(middles)), middles)) - 0.5, length)
        for position, middles, length in zip((row, col), centres, grid.image_size, strict=True)
    )
    return x, y


def bounding_box(mask: Bool[Tensor, "row col"], grid: Grid) -> Box:
    """The smallest box (x0, y0, x1, y1) of pixels, both corners inside it and the image, around the cells of a mask that is not empty."""
    cells = mask.nonzero()
    (top, left), (bottom, right) = cells.amin(0).tolist(), cells.amax(0).tolist()
    height, width = grid.image_size
    first, last = grid.cell_box(top, left), grid.cell_box(bottom, right)
    x0, y0 = _inside(first[0], width), _inside(first[1], height)
    return x0, y0, max(x0, min(last[2] - 1, width - 1.0)), max(y0, min(last[3] - 1, height - 1.0))


def _inside(position: float, length: int) -> float:
    return min(max(position, 0.0), length - 1.0)


@frozen
class Prompt:
    """The prompt stage.

    Attributes:
        kind: what SAM is given (Table 4): "point", "box" or "both".
        min_patches: components of fewer cells give no point; if all have fewer, the largest gives one.
        snap: move each point to the nearest cell of its component.
        stuff_share: a class whose M_r covers more than this share of the grid is stuff, such as sky: its points are spread over M_r. At 1,
            as in the paper, no class is.
        stuff_points: how many points stuff gets.

    >>> Prompt("box")
    Prompt(kind='box', min_patches=2, snap=False, stuff_share=1.0, stuff_points=8)
    """

    kind: str = field(default="both", validator=checked(check_choice, KINDS))
    min_patches: int = field(default=2, validator=checked(check_int, at_least=1))
    snap: bool = field(default=False, validator=checked(check_bool))
    stuff_share: float = field(default=1.0, validator=checked(check_number, at_least=0.0, at_most=1.0))
    stuff_points: int = field(default=8, validator=checked(check_int, at_least=1))

    def __call__(self, e: Evidence) -> Evidence:
        """The evidence with `points`, one for each component of the denoised M_r, and `box`, around the whole M_r.

        Flags: "no-prompt" where M_r is empty, so that there is neither; "few-patches" where the point belongs to a component that is smaller
        than `min_patches`; "stuff" where M_r covers more than `stuff_share` of the grid.

        Raises:
            NoMap: there is no M_r yet.
        """
        if e.refined is None:
            raise NoMap(f"{e.name} has no refined mask to take prompts from: run the refine stage on it first.")
        if not e.refined.any():
            return e.flagged("no-prompt")
        flags = [STUFF] if e.refined.float().mean() > self.stuff_share else []
        box = None if self.kind == "point" else bounding_box(e.refined, e.grid)
        if self.kind == "box":
            return replace(e, box=box).flagged(*flags)
        if flags:
            centres = [(float(row), float(col)) for row, col in spread(e.refined, self.stuff_points)]
        else:
            kept = components(e.refined, self.min_patches)
            centres = [centroid(cells, self.snap) for cells in kept]
            flags = ["few-patches"] if len(kept[0]) < self.min_patches else []
        return replace(e, points=tuple(to_pixel(row, col, e.grid) for row, col in centres), box=box).flagged(*flags)
