"""LLaVA's "anyres" tiles: the image on a padded canvas of tiles, the padding cut off again, a newline token after each row."""

from __future__ import annotations

import math
from dataclasses import replace

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.shared.single_view import single_view
from probe.backbones.shared.square_tower import patches_per_side, tower_size
from probe.errors import GridMismatch
from probe.tokens.layout import Grid, Intervals


def base_view(image: ProcessedImage) -> Grid:
    """The whole image as one tile, which Hugging Face folds into a square of cells.

    Raises:
        GridMismatch: the tower's tokens do not fill that square.
    """
    tile, _ = tower_size(image.model)
    layout = single_view(image.model, image.size, (tile, tile))
    side, config = patches_per_side(image.model), image.model.config
    if layout.tokens != side**2:
        raise GridMismatch(
            f"{config.model_type} folds each tile into {side} x {side} cells, but vision_feature_select_strategy="
            f"{config.vision_feature_select_strategy!r} leaves {layout.tokens} tokens of its tower, with which Hugging Face's own forward "
            'fails. "default" drops a class token and "full" needs a tower without one: set the strategy that fits this tower.'
        )
    return replace(layout.grid(), name="base")


def unpadded_tiles(
    image_size: tuple[int, int], canvases: list[list[int]], tile: int, patch: int, first: int
) -> tuple[Grid, tuple[int, ...]]:
    """The unpadded tiles as one grid, and the newline token after each of its rows.

    Args:
        image_size: (height, width) of the original image.
        canvases: the sizes (height, width) that the processor may choose, "pinpoints" in Hugging Face.
        tile, patch: pixels across one tile, and across one cell. Pixels of a tile after its last cell are in no cell.
        first: index of the first tile token among the image's tokens.
    """
    from transformers.image_processing_utils import select_best_resolution

    (height, width), side = image_size, tile // patch
    canvas_height, canvas_width = select_best_resolution([height, width], canvases)
    rows, cols = canvas_height // tile * side, canvas_width // tile * side
    padded_rows = padded_cols = 0
    if width / height > cols / rows:
        padded_rows = (rows - int(round(height * (cols / width), 7))) // 2
    else:
        padded_cols = (cols - int(round(width * (rows / height), 7))) // 2
    scale = min(canvas_width / width, canvas_height / height)

    def intervals(count: int, padded: int, canvas: int, length: int) -> Intervals:
        shown = min(math.ceil(length * scale), canvas)
        # The image is centred on its canvas. Whole rows or columns of padding are cut off; a part of a cell of padding may remain.
        starts = [cell // side * tile + cell % side * patch - (canvas - shown) // 2 for cell in range(padded, count - padded)]
        return tuple((start / shown * length, (start + patch) / shown * length) for start in starts)

    return grid_with_newlines(
        intervals(rows, padded_rows, canvas_height, height), intervals(cols, padded_cols, canvas_width, width), image_size, first
    )


def grid_with_newlines(down: Intervals, across: Intervals, image_size: tuple[int, int], first: int) -> tuple[Grid, tuple[int, ...]]:
    """A grid of tiles whose rows each end with a newline token, and these newline tokens.

    Args:
        down, across: the pixels of the original image that each row and each column covers.
        first: index of the first cell among the image's tokens.
    """
    cols = len(across)
    starts = [first + row * (cols + 1) for row in range(len(down))]
    tokens = tuple(start + col for start in starts for col in range(cols))
    return Grid.at(down, across, tokens, image_size, name="tiles"), tuple(start + cols for start in starts)
