"""LLaVA-OneVision: a base view, then tiles of the unpadded picture, shrunk where they are many, with a newline token after each row."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.llava import patches_per_side
from probe.backbones.llava_next import rows_of_tokens, tiled_grid
from probe.layout import Grid, ImageLayout


@register("llava_onevision")
class LlavaOnevision(Backbone):
    """Tiles are shrunk until they are at most as many tokens as the base view has, times the number in `anyres_max_9`."""

    tiled = True
    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side, config = patches_per_side(model), model.config
        base = Grid.whole(side, side, image_size, name="base")
        grid, newlines = tiled_grid(image_size, config.image_grid_pinpoints, config.vision_config.image_size, side, side**2)
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = sqrt(grid.rows * grid.cols / (most * side**2))
        if ratio > 1.1:
            rows, cols = int(grid.rows // ratio), int(grid.cols // ratio)
            tokens, newlines = rows_of_tokens(rows, cols, side**2)
            grid = Grid(grid.name, rows, cols, tokens, grid.box, image_size)
        return ImageLayout((base, grid), newlines)
