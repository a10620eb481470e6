"""Ovis 2: the base view, then tiles, with tokens that end a tile or a row of tiles between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import tiled_layout
from probe.backbones.tower import seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("ovis2")
class Ovis2(Backbone):
    """The canvas is read off the tokens themselves: start of image, end of base view, end of tile, end of row, end of image."""

    tiled = True

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        ids = inputs["input_ids"][0].tolist()
        start, _, tile, row, end = model.config.visual_indicator_token_ids
        first, last = ([i for i, token in enumerate(ids) if token == mark][index] for mark in (start, end))
        rows = ids[first:last].count(row) + 1
        cols = ids[first:last].count(tile) // rows + 1
        side = round(processor.image_seq_length**0.5)
        return tiled_layout(rows, cols, side, image_size, base="first", seen=seen_share(model, inputs, side))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)
