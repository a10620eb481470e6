"""Granite 4 Vision: LLaVA-1.6's base view and unpadded tiles, each shrunk by queries that read windows of patches."""

from __future__ import annotations

from fractions import Fraction

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import tower_size
from probe.backbones.shared.unpadded_tiles import unpadded_tiles
from probe.tokens.layout import ImageLayout


@register("granite4_vision")
class Granite4Vision(Backbone):
    """A query begins as the mean of its own patches, or as one of them, and attends to the window around it."""

    tiled = True
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        tile, patch = tower_size(image.model)
        cell = int(patch / Fraction(image.model.config.downsample_rate))
        base = square_grid(tile // cell, image.size, name="base")
        tiles, newlines = unpadded_tiles(image.size, image.image_processor.image_grid_pinpoints, tile, cell, len(base.tokens))
        return ImageLayout((base, tiles), newlines)
