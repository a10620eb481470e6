"""LFM2-VL: an image at its own aspect ratio; a large one as square tiles, and once more whole, at its own aspect ratio."""

from __future__ import annotations

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import tiled_grid
from probe.tokens.layout import Grid, ImageLayout


@register("lfm2_vl")
class Lfm2VL(Backbone):
    """Tiles, then the base view; squares of patches become one token each."""

    tiled = True
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        images = image.image_processor
        shared = {name: getattr(images, name) for name in ("downsample_factor", "max_image_tokens", "encoder_patch_size")}
        cell = images.encoder_patch_size * images.downsample_factor
        width, height = images.smart_resize(*image.size, min_image_tokens=images.min_image_tokens, **shared)
        large = images._is_image_too_large(*image.size, max_pixels_tolerance=images.max_pixels_tolerance, **shared)
        if not (large and images.do_image_splitting and images.max_tiles > 1):
            return ImageLayout((Grid.whole(height // cell, width // cell, image.size),))
        cols, rows, *_ = images._get_grid_layout(*image.size, images.min_tiles, images.max_tiles, images.tile_size)
        tiles = tiled_grid(rows, cols, images.tile_size // cell, image.size)
        if not images.use_thumbnail:
            return ImageLayout((tiles,))
        return ImageLayout((tiles, Grid.whole(height // cell, width // cell, image.size, name="base", first=len(tiles.tokens))))
