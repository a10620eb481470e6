"""Where image tokens lie: grids of cells, in tokens and in pixels of the original image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isclose

import numpy as np
from numpy.typing import NDArray

from probe.errors import GridMismatch, GridUnknown, InvalidRead
from probe.tokens.regions import Region, covered_shares

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the original image: edges, not centres. It may reach past the image where the model saw padding."""

Intervals = tuple[tuple[float, float], ...]
"""(start, end) of each row or column of cells, in order."""

_ROUNDING = 1e-9
"""Computed edges may be off by as much as this."""


def whole_box(image_size: tuple[int, int]) -> Box:
    """The box of a whole image of this (height, width).

    Example:
        >>> from probe.tokens.layout import whole_box
        >>> whole_box((480, 640))
        (0.0, 0.0, 640.0, 480.0)
    """
    height, width = image_size
    return (0.0, 0.0, float(width), float(height))


@dataclass(frozen=True)
class Grid:
    """One view of an image: rows x cols cells.

    Attributes:
        name: "image" for a model with one view; "base" and "tiles" for LLaVA-1.6.
        rows, cols: cells down and across.
        tokens: for each cell, row-major, its index among the image's tokens.
        box: the part of the original image that the whole grid covers, in pixels.
        image_size: (height, width) of the original image.
        row_shares, col_shares: where each row and column begins and ends, as shares of the box's height and width. Empty: they divide it
            evenly. Tiles whose edge is no multiple of the patch have pixels between them that no cell covers.

    Example:
        >>> grid = probe.Grid.whole(2, 4, (100, 400))
        >>> grid.tokens
        (0, 1, 2, 3, 4, 5, 6, 7)
        >>> grid.cell_box(0, 1)
        (100.0, 0.0, 200.0, 50.0)
    """

    name: str
    rows: int
    cols: int
    tokens: tuple[int, ...]
    box: Box
    image_size: tuple[int, int]
    row_shares: Intervals = ()
    col_shares: Intervals = ()

    @classmethod
    def whole(
        cls, rows: int, cols: int, image_size: tuple[int, int], *, name: str = "image", first: int = 0, box: Box | None = None
    ) -> Grid:
        """A row-major grid whose tokens start at `first`; without a box it covers the whole image.

        Example:
            >>> probe.Grid.whole(2, 2, (10, 10), name="base", first=4).tokens
            (4, 5, 6, 7)
        """
        return cls(name, rows, cols, tuple(range(first, first + rows * cols)), box or whole_box(image_size), image_size)

    @classmethod
    def at(cls, down: Intervals, across: Intervals, tokens: tuple[int, ...], image_size: tuple[int, int], *, name: str = "image") -> Grid:
        """A grid whose rows and columns cover these pixels of the original image; none of them: the image is too narrow for a cell.

        Example:
            >>> probe.Grid.at(((0, 5), (5, 10)), ((0, 8), (12, 20)), (0, 1, 2, 3), (10, 20)).cell_box(1, 1)
            (12.0, 5.0, 20.0, 10.0)
        """
        (top, bottom), (left, right) = ((edges[0][0], edges[-1][1]) if edges else (0.0, 0.0) for edges in (down, across))
        box = (left, top, right, bottom)
        return cls(name, len(down), len(across), tokens, box, image_size, _shares(down), _shares(across))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    def cell_box(self, row: int, col: int) -> Box:
        """The pixels (x0, y0, x1, y1) of the original image that one cell covers.

        Raises:
            GridUnknown: there is no such cell.

        Example:
            >>> probe.Grid.whole(24, 24, (336, 672)).cell_box(23, 0)
            (0.0, 322.0, 28.0, 336.0)
        """
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise GridUnknown(f"Cell ({row}, {col}) was asked for, this grid has {self.rows} rows and {self.cols} columns, counted from 0.")
        (top, bottom), (left, right) = self.intervals(0)[row], self.intervals(1)[col]
        return (left, top, right, bottom)

    def covered_by(self, region: Region, share: float = 0.5) -> tuple[int, ...]:
        """The tokens of the cells that a box or a mask of pixels covers, as their indices among the image's tokens.

        Args:
            region: (x0, y0, x1, y1) in pixels of the original image, or a boolean mask (height, width) of it.
            share: how much of a cell has to be covered, at least; 0: every cell that is touched.

        Raises:
            InvalidRead: neither a box nor a mask of this image, or no share from 0 to 1.

        Example:
            >>> probe.Grid.whole(2, 4, (100, 400)).covered_by((120, 0, 300, 60))
            (1, 2)
        """
        if not 0 <= share <= 1:
            raise InvalidRead(f"share={share!r}: how much of a cell has to be covered, from 0 to 1.")
        shares = covered_shares(self.intervals(0), self.intervals(1), self.image_size, region).ravel()
        return tuple(
            token for token, covered in zip(self.tokens, shares.tolist(), strict=True) if covered > 0 and covered >= share - _ROUNDING
        )

    def pixel_coordinates(self, *, nearest: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The pixels of the original image in the grid's coordinates, for interpolating a map of cells to pixels.

        Args:
            nearest: a pixel that no cell covers takes the coordinate of the nearest edge of a cell; otherwise NaN.

        Returns:
            arrays (height) and (width): for each row and each column of pixels the coordinate of its centre among the grid's rows and
            columns. The centre of row i has coordinate i, its upper edge i - 0.5.

        Example:
            >>> down, across = probe.Grid.whole(1, 2, (1, 4)).pixel_coordinates()
            >>> across.tolist()
            [-0.25, 0.25, 0.75, 1.25]
        """
        down, across = (_coordinates(self.intervals(axis), np.arange(self.image_size[axis]) + 0.5, nearest) for axis in (0, 1))
        return down, across

    def within_image(self) -> Grid:
        """The rows and columns of cells that show some of the image; the grid itself where all of them do.

        A processor that pads an image makes cells that show padding alone.

        Example:
            >>> padded = probe.Grid.whole(4, 4, (100, 50), box=(-25.0, 0.0, 75.0, 100.0))
            >>> inside = padded.within_image()
            >>> inside.rows, inside.cols, inside.box, inside.tokens[:3]
            (4, 2, (0.0, 0.0, 50.0, 100.0), (1, 2, 5))
        """
        kept = [
            [number for number, (start, end) in enumerate(self.intervals(axis)) if end > _ROUNDING and start < length - _ROUNDING]
            for axis, length in enumerate(self.image_size)
        ]
        if (len(kept[0]), len(kept[1])) == (self.rows, self.cols):
            return self
        down, across = (tuple(self.intervals(axis)[number] for number in numbers) for axis, numbers in enumerate(kept))
        tokens = tuple(self.tokens[row * self.cols + col] for row in kept[0] for col in kept[1])
        return Grid.at(down, across, tokens, self.image_size, name=self.name)

    def sample_positions(self, other: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The centres of another grid's cells in this grid's coordinates, as `pixel_coordinates(nearest=True)` gives those of pixels.

        Example:
            >>> coarse, fine = probe.Grid.whole(1, 2, (8, 8)), probe.Grid.whole(1, 4, (8, 8))
            >>> coarse.sample_positions(fine)[1].tolist()
            [-0.25, 0.25, 0.75, 1.25]
        """
        down, across = (_coordinates(self.intervals(axis), other.centres(axis), nearest=True) for axis in (0, 1))
        return down, across

    def centres(self, axis: int) -> NDArray[np.float64]:
        """The middle of each row (axis 0) or column (axis 1), in pixels of the original image.

        Example:
            >>> probe.Grid.whole(2, 4, (100, 400)).centres(1).tolist()
            [50.0, 150.0, 250.0, 350.0]
        """
        return np.array([(start + end) / 2 for start, end in self.intervals(axis)])

    def intervals(self, axis: int) -> Intervals:
        """Where each row (axis 0) or column (axis 1) begins and ends, in pixels of the original image.

        Example:
            >>> probe.Grid.whole(2, 4, (100, 400)).intervals(0)
            ((0.0, 50.0), (50.0, 100.0))
        """
        first, last = self.box[1 - axis], self.box[3 - axis]
        count = self.cols if axis else self.rows
        shares = (self.col_shares if axis else self.row_shares) or [(cell / count, (cell + 1) / count) for cell in range(count)]
        return tuple((first + start * (last - first), first + end * (last - first)) for start, end in shares)


def _shares(intervals: Intervals) -> Intervals:
    """Intervals as shares of all that lies between the first and the last edge; none where they divide it evenly."""
    if not intervals:
        return ()
    first, length = intervals[0][0], intervals[-1][1] - intervals[0][0]
    shares = tuple(((start - first) / length, (end - first) / length) for start, end in intervals)
    even = all(isclose(end - start, 1 / len(intervals), abs_tol=_ROUNDING) for start, end in shares)
    joined = all(isclose(one[1], other[0], abs_tol=_ROUNDING) for one, other in pairwise(shares))
    return () if even and joined else shares


def _coordinates(intervals: Intervals, positions: NDArray[np.floating], nearest: bool) -> NDArray[np.float64]:
    """The coordinates of positions in pixels among cells that cover these intervals; where none covers one, the nearest edge or NaN."""
    starts, ends = np.array(intervals).T
    middles = (starts + ends) / 2
    last = np.clip(np.searchsorted(starts - _ROUNDING, positions, side="right") - 1, 0, None)
    from_middle = (positions - middles[last]) / (ends - starts)[last]
    if nearest:
        return last + np.clip(from_middle, -0.5, 0.5)
    covered = (positions >= starts[last] - _ROUNDING) & (positions <= ends[last] + _ROUNDING)
    return np.where(covered, last + from_middle, np.nan)


@dataclass(frozen=True)
class ImageLayout:
    """Every token of one image: the cells of its grids, and the tokens that are no cell.

    Attributes:
        grids: the views of the image, in the order of the sequence.
        separators: indices (among the image's tokens) of newline and separator tokens, and of all others that are no cell.
        no_grid_reason: why no token is a cell, in a family without grids.
        shown: the grid of the vision tower's input, where that is one view whose cells are not the image tokens'.

    Example:
        >>> layout = probe.ImageLayout((probe.Grid.whole(2, 2, (10, 10)),), separators=(4,))
        >>> layout.tokens
        5
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
        """The grid of the vision tower's input, if that is one view; None: there are several."""
        return self.shown or (self.grids[0] if len(self.grids) == 1 else None)

    def check(self, tokens: int, family: str) -> ImageLayout:
        """This layout, after the check that cells + separators are the number of image tokens in `input_ids`.

        Raises:
            GridMismatch: they are not; the message has both numbers.

        Example:
            >>> layout = probe.ImageLayout((probe.Grid.whole(2, 3, (10, 10)),))
            >>> layout.check(6, "llava") is layout
            True
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

        Example:
            >>> probe.ImageLayout((probe.Grid.whole(2, 3, (10, 10)),)).grid().cols
            3
        """
        if not self.grids:
            raise GridUnknown(f"These image tokens cannot be folded onto the image: {self.no_grid_reason}.")
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
