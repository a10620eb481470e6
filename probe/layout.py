"""Where image tokens lie: grids of cells, in tokens and in pixels of the original picture."""

from __future__ import annotations

from dataclasses import dataclass

from probe.errors import GridMismatch, GridUnknown

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the original image, edges, not centres; it may reach past the picture where the model saw padding."""


@dataclass(frozen=True)
class Grid:
    """One regular view of an image: rows x cols cells.

    Attributes:
        name: "image" for a model with one view; "base" and "tiles" for LLaVA-1.6.
        rows, cols: cells down and across.
        tokens: for each cell, row-major, its index among the image's tokens.
        box: the part of the original image that the whole grid covers, in pixels.
        image_size: (height, width) of the original image.
    """

    name: str
    rows: int
    cols: int
    tokens: tuple[int, ...]
    box: Box
    image_size: tuple[int, int]

    @classmethod
    def whole(
        cls, rows: int, cols: int, image_size: tuple[int, int], *, name: str = "image", first: int = 0, box: Box | None = None
    ) -> Grid:
        """A row-major grid whose tokens start at `first`; without a box it covers the whole picture."""
        height, width = image_size
        return cls(name, rows, cols, tuple(range(first, first + rows * cols)), box or (0.0, 0.0, float(width), float(height)), image_size)

    def cell_box(self, row: int, col: int) -> Box:
        """The pixels (x0, y0, x1, y1) of the original image that one cell covers."""
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise GridUnknown(f"Cell ({row}, {col}) was asked for, this grid has {self.rows} rows and {self.cols} columns, counted from 0.")
        x0, y0, x1, y1 = self.box
        width, height = (x1 - x0) / self.cols, (y1 - y0) / self.rows
        return (x0 + col * width, y0 + row * height, x0 + (col + 1) * width, y0 + (row + 1) * height)


@dataclass(frozen=True)
class ImageLayout:
    """Every token of one image: the cells of its grids, and what stands between them.

    Attributes:
        grids: the views of the image, in the order of the sequence.
        separators: indices (among the image's tokens) of newline and separator tokens, and of tokens that are no cell.
        unplaced: why no token is a cell, where the family has no grid.
        shown: what the vision tower looks at, where that is one view and the image tokens are no cells of it.
    """

    grids: tuple[Grid, ...]
    separators: tuple[int, ...] = ()
    unplaced: str = ""
    shown: Grid | None = None

    @property
    def tokens(self) -> int:
        """How many image tokens this layout accounts for."""
        return sum(len(grid.tokens) for grid in self.grids) + len(self.separators)

    @property
    def view(self) -> Grid | None:
        """The one view that the tower looks at; None: it looks at several."""
        return self.grids[0] if len(self.grids) == 1 else self.shown

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
            GridUnknown: no such view, several and no name, or none because the family has no grid.
        """
        if not self.grids:
            raise GridUnknown(f"These image tokens cannot be folded onto the picture: {self.unplaced}.")
        names = ", ".join(f"{g.name!r} ({g.rows} x {g.cols})" for g in self.grids)
        if view is None:
            if len(self.grids) != 1:
                raise GridUnknown(
                    f"This image is laid out in {len(self.grids)} views: {names}. Name one: .grid(view={self.grids[0].name!r})."
                )
            return self.grids[0]
        for grid in self.grids:
            if grid.name == view:
                return grid
        raise GridUnknown(f"No view {view!r}. Views of this image: {names}.")
