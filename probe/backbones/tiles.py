"""Images cut into square tiles, and shown whole once more: one grid over the whole canvas of tiles, one for the base view."""

from __future__ import annotations

from typing import Literal

from probe.backbones.tower import upper_left
from probe.tokens.layout import Box, Grid, ImageLayout, Spans


def tiled_layout(
    rows: int,
    cols: int,
    side: int,
    image_size: tuple[int, int],
    *,
    base: Literal["first", "last"] = "last",
    seen: float = 1.0,
    canvas: Box | None = None,
) -> ImageLayout:
    """The layout of a picture that is stretched over a canvas of tiles, and shown whole on a base view.

    Args:
        rows, cols: the canvas, in tiles; fewer than two tiles: the picture is one view, without a base view beside it.
        side: image tokens across one tile.
        image_size: (height, width) of the original picture.
        base: whether the base view comes before the tiles or behind them.
        seen: the share of a tile's edge that its tokens cover, from the upper left corner on.
        canvas: what the canvas of tiles covers of the picture; None: all of it.
    """
    whole = upper_left((0.0, 0.0, float(image_size[1]), float(image_size[0])), seen, seen)
    if rows * cols <= 1:
        box = upper_left(canvas, seen, seen) if canvas else whole
        return ImageLayout((Grid.whole(side, side, image_size, box=box),))
    first = side**2 if base == "first" else 0
    tiles = tiled_grid(rows, cols, side, image_size, first=first, seen=seen, canvas=canvas)
    view = Grid.whole(side, side, image_size, name="base", first=0 if base == "first" else len(tiles.tokens), box=whole)
    return ImageLayout((view, tiles) if base == "first" else (tiles, view))


def tiled_grid(
    rows: int,
    cols: int,
    side: int,
    image_size: tuple[int, int],
    *,
    first: int = 0,
    name: str = "tiles",
    seen: float = 1.0,
    canvas: Box | None = None,
    stride: int | None = None,
) -> Grid:
    """One grid over rows x cols tiles of side x side tokens; a tile's tokens stand together, row by row, those of all from `first` on.

    Args:
        seen, canvas: as of `tiled_layout`.
        stride: tokens from the beginning of a tile to that of the next; None: no others stand between them.
    """
    stride = side**2 if stride is None else stride
    tokens = tuple(
        first + (row // side * cols + col // side) * stride + row % side * side + col % side
        for row in range(rows * side)
        for col in range(cols * side)
    )
    left, top, right, bottom = canvas or (0.0, 0.0, float(image_size[1]), float(image_size[0]))
    down, across = _spans(rows, side, seen, top, bottom), _spans(cols, side, seen, left, right)
    return Grid.at(down, across, tokens, image_size, name=name)


def _spans(tiles: int, side: int, seen: float, first: float, last: float) -> Spans:
    """Where the cells of a row of tiles begin and end between two edges."""

    def edge(tile: int, cell: int) -> float:
        return first + (last - first) * ((tile + cell / side * seen) / tiles)

    return tuple((edge(tile, cell), edge(tile, cell + 1)) for tile in range(tiles) for cell in range(side))


def padded_canvas(image_size: tuple[int, int], canvas: tuple[int, ...], filled: tuple[int, ...]) -> Box:
    """What a canvas covers, in pixels of the picture that fills its upper left part; the rest is padding.

    Args:
        image_size: (height, width) of the original picture.
        canvas, filled: (height, width) of the canvas, and of the resized picture on it.
    """
    height, width = (float(pixels * edge / used) for pixels, edge, used in zip(image_size, canvas, filled, strict=True))
    return (0.0, 0.0, width, height)
