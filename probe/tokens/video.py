"""Where a video's tokens lie: a grid of cells for each step in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from probe.errors import GridMismatch, GridUnknown
from probe.tokens.layout import Grid, ImageLayout


@dataclass(frozen=True)
class VideoLayout:
    """Every token of one video: the cells of its steps in time, and the tokens that are no cell.

    Attributes:
        grids: for each step where its cells lie on the frame, as many rows and columns in each. `tokens` are indices among the video's.
        frames: for each step the numbers of the frames that it shows, from 0: one, or several that the family merges.
        separators: indices (among the video's tokens) of class and newline tokens, and of all others that are no cell.

    Example:
        >>> layout = probe.VideoLayout.repeated(probe.Grid.whole(2, 3, (20, 30)), frames=5, merged=2)
        >>> layout.frames, layout.tokens
        (((0, 1), (2, 3), (4,)), 18)
    """

    grids: tuple[Grid, ...]
    frames: tuple[tuple[int, ...], ...]
    separators: tuple[int, ...] = ()

    @classmethod
    def repeated(cls, grid: Grid, frames: int, *, merged: int = 1, stride: int | None = None, last: int = 0) -> VideoLayout:
        """The same grid at each step.

        Args:
            grid: that of the first step.
            frames: how many frames the video has.
            merged: how many of them one step shows.
            stride: tokens from the beginning of a step to that of the next; None: no others than the grid's.
            last: how many tokens follow the last step.

        Example:
            >>> probe.VideoLayout.repeated(probe.Grid.whole(1, 2, (10, 20), first=1), frames=2, stride=3).separators
            (0, 3)
        """
        stride = len(grid.tokens) if stride is None else stride
        shown = tuple(tuple(range(first, min(first + merged, frames))) for first in range(0, frames, merged))
        grids = tuple(replace(grid, tokens=tuple(step * stride + token for token in grid.tokens)) for step in range(len(shown)))
        cells = {token for one in grids for token in one.tokens}
        return cls(grids, shown, tuple(token for token in range(len(shown) * stride + last) if token not in cells))

    @property
    def cells(self) -> tuple[int, ...]:
        """The indices of all cells among the video's tokens, step by step."""
        return tuple(token for grid in self.grids for token in grid.tokens)

    @property
    def tokens(self) -> int:
        """How many tokens this layout accounts for."""
        return len(self.cells) + len(self.separators)

    def check(self, tokens: int, family: str) -> VideoLayout:
        """This layout, after the check that cells + separators are the number of the video's tokens in `input_ids`.

        Raises:
            GridMismatch: they are not; the message has both numbers.
        """
        if self.tokens != tokens:
            one = self.grids[0]
            raise GridMismatch(
                f"{family} lays out {len(self.grids)} x {one.rows} x {one.cols} cells and {len(self.separators)} separators = {self.tokens} "
                f"tokens for this video, but input_ids has {tokens}. Do its frames fit the processor? Encode as many as the family takes."
            )
        return self

    def grid(self, view: str | None = None) -> Grid:
        """The cells of the first step, which lie on the frame as those of every other.

        Raises:
            GridUnknown: a view is named, and a video has one.
        """
        if view not in (None, self.grids[0].name):
            raise GridUnknown(f"No view {view!r}. A video has one, {self.grids[0].name!r}: .grid() folds it to (frame, row, col).")
        return self.grids[0]

    def steps(self, positions: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...], ImageLayout]]:
        """For each step the frames that it shows, the positions of its cells in row-major order, and their layout.

        Args:
            positions: those of all the video's tokens.
        """
        found = []
        for frames, grid in zip(self.frames, self.grids, strict=True):
            cells = tuple(positions[token] for token in grid.tokens)
            found.append((frames, cells, ImageLayout((replace(grid, tokens=tuple(range(len(cells)))),))))
        return found
