"""Pictures cut into square tiles, and shown whole once more: one grid over the whole canvas of tiles, one for the base view."""

from __future__ import annotations

from typing import Literal

from probe.layout import Box, Grid, ImageLayout


def tiled_layout(rows: int, cols: int, side: int, image_size: tuple[int, int], *, base: Literal["first", "last"] = "last") -> ImageLayout:
    """The layout of a picture that is stretched over a canvas of tiles, and shown whole on a base view.

    Args:
        rows, cols: the canvas, in tiles; fewer than two tiles: the picture is one view, without a base view beside it.
        side: image tokens across one tile.
        image_size: (height, width) of the original picture.
        base: whether the base view comes before the tiles or behind them.
    """
    if rows * cols <= 1:
        return ImageLayout((Grid.whole(side, side, image_size),))
    first = side**2 if base == "first" else 0
    canvas = tiled_grid(rows, cols, side, image_size, first=first)
    whole = Grid.whole(side, side, image_size, name="base", first=0 if base == "first" else len(canvas.tokens))
    return ImageLayout((whole, canvas) if base == "first" else (canvas, whole))


def tiled_grid(rows: int, cols: int, side: int, image_size: tuple[int, int], *, first: int = 0, name: str = "tiles") -> Grid:
    """One grid over rows x cols tiles of side x side tokens; a tile's tokens stand together, row by row, those of all from `first` on."""
    tokens = tuple(
        first + (row // side * cols + col // side) * side**2 + row % side * side + col % side
        for row in range(rows * side)
        for col in range(cols * side)
    )
    height, width = image_size
    return Grid(name, rows * side, cols * side, tokens, (0.0, 0.0, float(width), float(height)), image_size)


def padded_canvas(image_size: tuple[int, int], canvas: tuple[int, ...], filled: tuple[int, ...]) -> Box:
    """What a canvas covers, in pixels of the picture that fills its upper left part; the rest is padding.

    Args:
        image_size: (height, width) of the original picture.
        canvas, filled: (height, width) of the canvas, and of the resized picture on it.
    """
    height, width = (float(pixels * edge / used) for pixels, edge, used in zip(image_size, canvas, filled, strict=True))
    return (0.0, 0.0, width, height)
