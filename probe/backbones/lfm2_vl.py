"""LFM2-VL: a picture at its own aspect ratio; a large one as square tiles, and once more whole, at its own aspect ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import tiled_grid
from probe.tokens.layout import Grid, ImageLayout


@register("lfm2_vl")
class Lfm2VL(Backbone):
    """Tiles, then the base view; squares of patches become one token each."""

    tiled = True

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        images = processor.image_processor
        shared = {name: getattr(images, name) for name in ("downsample_factor", "max_image_tokens", "encoder_patch_size")}
        cell = images.encoder_patch_size * images.downsample_factor
        width, height = images.smart_resize(*image_size, min_image_tokens=images.min_image_tokens, **shared)
        large = images._is_image_too_large(*image_size, max_pixels_tolerance=images.max_pixels_tolerance, **shared)
        if not (large and images.do_image_splitting and images.max_tiles > 1):
            return ImageLayout((Grid.whole(height // cell, width // cell, image_size),))
        cols, rows, *_ = images._get_grid_layout(*image_size, images.min_tiles, images.max_tiles, images.tile_size)
        canvas = tiled_grid(rows, cols, images.tile_size // cell, image_size)
        if not images.use_thumbnail:
            return ImageLayout((canvas,))
        return ImageLayout((canvas, Grid.whole(height // cell, width // cell, image_size, name="base", first=len(canvas.tokens))))
