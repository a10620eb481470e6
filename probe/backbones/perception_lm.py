"""Perception LM: the whole picture as one square, then the tiles of a canvas, patches pooled in squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import tiled_grid, tiled_layout
from probe.tokens.layout import Grid, ImageLayout


@register("perception_lm")
class PerceptionLM(Backbone):
    """Even a picture that fits one tile is shown twice; of a "thumb" alone there is one view."""

    tiled = True

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        images, (height, width) = processor.image_processor, image_size
        patches = images.tile_size // processor.patch_size
        side = patches // processor.pooling_ratio
        seen = patches * processor.patch_size / images.tile_size
        if images.vision_input_type != "thumb+tile":
            return tiled_layout(1, 1, side, image_size, seen=seen)
        cols, rows = 1, 1
        if images.max_num_tiles > 1:
            fitting = images._fit_image_to_canvas(width, height, images.tile_size)
            cols, rows = fitting or images._find_closest_aspect_ratio(width, height, images.tile_size)
        base = tiled_grid(1, 1, side, image_size, name="base", seen=seen)
        return ImageLayout((base, tiled_grid(rows, cols, side, image_size, first=side**2, seen=seen)))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        pooled = model.config.projector_pooling_ratio
        return Grid.whole(view.rows * pooled, view.cols * pooled, view.image_size) if view else None
