"""Images cut into square tiles, and shown whole once more: one grid over the whole canvas of tiles, one for the base view."""

from __future__ import annotations

from typing import ClassVar, Literal

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import SquareTower, covered_share
from probe.tokens.layout import Box, Grid, ImageLayout, Intervals, whole_box


class TiledLayout(SquareTower):
    """A family that stretches an image over a canvas of tiles. A subclass says how many tiles, and how many tokens in each.

    Each tile has the same square of image tokens, row by row; an image that is one tile has no base view.
    """

    tiled = True

    base: ClassVar[Literal["first", "last"]] = "last"
    """Whether the base view comes before the tiles or after them."""

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        """How many tiles the image is cut into, down and across."""
        raise NotImplementedError

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        """Image tokens across one tile."""
        return image.tokens_per_side

    def canvas_box(self, image: ProcessedImage) -> Box:
        """What the canvas covers, in pixels of the original image; it reaches past the image where the canvas is padded."""
        return whole_box(image.size)

    def layout(self, image: ProcessedImage) -> ImageLayout:
        (rows, cols), side = self.canvas(image), self.tokens_across_tile(image)
        covered, box = covered_share(image, side), self.canvas_box(image)
        return tiles_and_base(rows, cols, side, image.size, base=self.base, covered=covered, canvas=box)


def tiles_and_base(
    rows: int,
    cols: int,
    side: int,
    image_size: tuple[int, int],
    *,
    base: Literal["first", "last"] = "last",
    covered: float = 1.0,
    canvas: Box | None = None,
) -> ImageLayout:
    """The layout of an image that is stretched over a canvas of tiles, and shown whole in a base view.

    Args:
        rows, cols: the canvas, in tiles; fewer than two tiles: one view and no base view.
        side: image tokens across one tile.
        image_size: (height, width) of the original image.
        base: whether the base view comes before the tiles or after them.
        covered: the share of a tile's edge that its tokens cover, from the upper left corner.
        canvas: what the canvas of tiles covers of the image; None: all of it.
    """
    if rows * cols <= 1:
        return ImageLayout((square_grid(side, image_size, covered=covered, box=canvas),))
    first = side**2 if base == "first" else 0
    tiles = tiled_grid(rows, cols, side, image_size, first=first, covered=covered, canvas=canvas)
    view = square_grid(side, image_size, covered=covered, name="base", first=0 if base == "first" else len(tiles.tokens))
    return ImageLayout((view, tiles) if base == "first" else (tiles, view))


def tiled_grid(
    rows: int,
    cols: int,
    side: int,
    image_size: tuple[int, int],
    *,
    first: int = 0,
    name: str = "tiles",
    covered: float = 1.0,
    canvas: Box | None = None,
    stride: int | None = None,
    across: int | None = None,
) -> Grid:
    """One grid over rows x cols tiles of side x side tokens: tile after tile, each row by row, from token `first` on.

    Args:
        covered, canvas: as of `tiles_and_base`.
        stride: tokens from the beginning of a tile to that of the next; None: no other tokens between them.
        across: tokens across a tile that is no square, and has `side` down; None: it is one.
    """
    across = side if across is None else across
    stride = side * across if stride is None else stride
    tokens = tuple(
        first + (row // side * cols + col // across) * stride + row % side * across + col % across
        for row in range(rows * side)
        for col in range(cols * across)
    )
    left, top, right, bottom = canvas or whole_box(image_size)
    vertical, horizontal = _cell_intervals(rows, side, covered, top, bottom), _cell_intervals(cols, across, covered, left, right)
    return Grid.at(vertical, horizontal, tokens, image_size, name=name)


def _cell_intervals(tiles: int, side: int, covered: float, first: float, last: float) -> Intervals:
    """Where the cells of a row of tiles between two edges begin and end."""

    def edge(tile: int, cell: int) -> float:
        return first + (last - first) * ((tile + cell / side * covered) / tiles)

    return tuple((edge(tile, cell), edge(tile, cell + 1)) for tile in range(tiles) for cell in range(side))


def padded_canvas(image_size: tuple[int, int], canvas: tuple[int, ...], filled: tuple[int, ...]) -> Box:
    """What a canvas covers, in pixels of the image that fills its upper left part; the rest is padding.

    Args:
        image_size: (height, width) of the original image.
        canvas, filled: (height, width) of the canvas, and of the resized image on it.
    """
    height, width = (float(pixels * edge / used) for pixels, edge, used in zip(image_size, canvas, filled, strict=True))
    return (0.0, 0.0, width, height)
