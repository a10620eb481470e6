"""Where image tokens lie: grids of cells, in tokens and in pixels of the original picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isclose
from typing import Any

import numpy as np

from probe.errors import GridMismatch, GridUnknown

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the original image, edges, not centres; it may reach past the picture where the model saw padding."""

Spans = tuple[tuple[float, float], ...]
"""(start, end) of each row or column of cells, in order."""


@dataclass(frozen=True)
class Grid:
    """One view of an image: rows x cols cells.

    Attributes:
        name: "image" for a model with one view; "base" and "tiles" for LLaVA-1.6.
        rows, cols: cells down and across.
        tokens: for each cell, row-major, its index among the image's tokens.
        box: the part of the original image that the whole grid covers, in pixels.
        image_size: (height, width) of the original image.
        row_spans, col_spans: where each row and column begins and ends, as shares of the box's height and width. Empty: they divide it
            evenly. Tiles whose edge is no multiple of the patch have pixels between them that no cell covers.
    """

    name: str
    rows: int
    cols: int
    tokens: tuple[int, ...]
    box: Box
    image_size: tuple[int, int]
    row_spans: Spans = ()
    col_spans: Spans = ()

    @classmethod
    def whole(
        cls, rows: int, cols: int, image_size: tuple[int, int], *, name: str = "image", first: int = 0, box: Box | None = None
    ) -> Grid:
        """A row-major grid whose tokens start at `first`; without a box it covers the whole picture."""
        height, width = image_size
        return cls(name, rows, cols, tuple(range(first, first + rows * cols)), box or (0.0, 0.0, float(width), float(height)), image_size)

    @classmethod
    def at(cls, down: Spans, across: Spans, tokens: tuple[int, ...], image_size: tuple[int, int], *, name: str = "image") -> Grid:
        """A grid whose rows and columns cover these pixels of the original image; none: an image too narrow for a single cell."""
        (top, bottom), (left, right) = ((spans[0][0], spans[-1][1]) if spans else (0.0, 0.0) for spans in (down, across))
        box = (left, top, right, bottom)
        return cls(name, len(down), len(across), tokens, box, image_size, _shares(down), _shares(across))

    def cell_box(self, row: int, col: int) -> Box:
        """The pixels (x0, y0, x1, y1) of the original image that one cell covers."""
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise GridUnknown(f"Cell ({row}, {col}) was asked for, this grid has {self.rows} rows and {self.cols} columns, counted from 0.")
        (top, bottom), (left, right) = self.spans(0)[row], self.spans(1)[col]
        return (left, top, right, bottom)

    def places(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Where the pixels of the original image lie among the cells.

        Returns:
            float64 arrays (height) and (width): for each row and each column of pixels the place of its centre among the grid's rows and
            columns. The centre of row i has place i, the edge half a row before it i - 0.5; NaN where no cell covers the pixel's centre.
        """
        down, across = (_places(self.spans(axis), self.image_size[axis]) for axis in (0, 1))
        return down, across

    def spans(self, axis: int) -> Spans:
        """Where each row (axis 0) or column (axis 1) begins and ends, in pixels of the original image."""
        first, last = self.box[1 - axis], self.box[3 - axis]
        count = self.cols if axis else self.rows
        shares = (self.col_spans if axis else self.row_spans) or [(place / count, (place + 1) / count) for place in range(count)]
        return tuple((first + start * (last - first), first + end * (last - first)) for start, end in shares)


def _shares(spans: Spans) -> Spans:
    """Spans as shares of all that lies between the first and the last edge; none where they divide it evenly."""
    if not spans:
        return ()
    first, length = spans[0][0], spans[-1][1] - spans[0][0]
    shares = tuple(((start - first) / length, (end - first) / length) for start, end in spans)
    even = all(isclose(end - start, 1 / len(spans), abs_tol=1e-9) for start, end in shares)
    joined = all(isclose(one[1], other[0], abs_tol=1e-9) for one, other in pairwise(shares))
    return () if even and joined else shares


def _places(spans: Spans, pixels: int) -> np.ndarray[Any, Any]:
    centres = np.arange(pixels) + 0.5
    starts, ends = np.array(spans).T
    middles, slack = (starts + ends) / 2, 1e-9  # edges are computed, and may be off by as much as doubles are
    nearest = np.clip(np.searchsorted(starts - slack, centres, side="right") - 1, 0, None)
    places = nearest + (centres - middles[nearest]) / (ends - starts)[nearest]
    seen = (centres >= starts[nearest] - slack) & (centres <= ends[nearest] + slack)
    return np.where(seen, places, np.nan)


@dataclass(frozen=True)
class ImageLayout:
    """Every token of one image: the cells of its grids, and what stands between them.

    Attributes:
        grids: the views of the image, in the order of the sequence.
        separators: indices (among the image's tokens) of newline and separator tokens, and of tokens that are no cell.
        no_grid_reason: why no token is a cell, where the family has no grid.
        shown: what the vision tower looks at, where that is one view whose cells are not the image tokens'.
    """

    grids: tuple[Grid, ...]
    separators: tuple[int, ...] = ()
    no_grid_reason: str = ""
    shown: Grid | None = None

    @property
    def tokens(self) -> int:
        """How many image tokens this layout accounts for."""
        return sum(len(grid.tokens) for grid in self.grids) + len(self.separators)

    @property
    def view(self) -> Grid | None:
        """The one view that the tower looks at; None: it looks at several."""
        return self.shown or (self.grids[0] if len(self.grids) == 1 else None)

    def check(self, tokens: int, family: str) -> ImageLayout:
        """The law of layout: cells + separators == image tokens in input_ids.

        Raises:
            GridMismatch: with both numbers.
        """
        if self.tokens != tokens:
            laid = " + ".join(f"{grid.rows} x {grid.cols}" for grid in self.grids) or "no grid"
            separators = f" and {len(self.separators)} separators" if self.separators else ""
            raise GridMismatch(
                f"{family} lays out {laid}{separators} = {self.tokens} image tokens for this image, but input_ids has {tokens}. "
                "Were the tokens counted for another size? Encode image and text together with model.encode()."
            )
        return self

    def grid(self, view: str | None = None) -> Grid:
        """The view of this name; the only one where no name is given.

        Raises:
            GridUnknown: no such view, one without a cell, several and no name, or none because the family has no grid.
        """
        if not self.grids:
            raise GridUnknown(f"These image tokens cannot be folded onto the picture: {self.no_grid_reason}.")
        names = ", ".join(f"{g.name!r} ({g.rows} x {g.cols})" for g in self.grids)
        if view is None:
            if len(self.grids) != 1:
                raise GridUnknown(
                    f"This image is laid out in {len(self.grids)} views: {names}. Name one: .grid(view={self.grids[0].name!r})."
                )
            return self.grids[0]
        for grid in self.grids:
            if grid.name == view and grid.tokens:
                return grid
            if grid.name == view:
                raise GridUnknown(f"The view {view!r} has {grid.rows} x {grid.cols} cells: the image is too narrow for it. Views: {names}.")
        raise GridUnknown(f"No view {view!r}. Views of this image: {names}.")
