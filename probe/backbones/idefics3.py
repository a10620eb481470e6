"""Idefics 3 and SmolVLM: as many tiles as the resized picture fills, with tokens that name each tile's row and column between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.tiles import tiled_layout
from probe.backbones.tower import seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("idefics3", "smolvlm")
class Idefics3(Backbone):
    """Tiles, then the base view."""

    tiled = True
    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        _, rows, cols = processor.image_processor.get_number_of_image_patches(*image_size, {})
        side = round(processor.image_seq_len**0.5)
        return tiled_layout(rows, cols, side, image_size, seen=seen_share(model, inputs, side))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)
