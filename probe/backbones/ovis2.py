"""Ovis 2: the base view, then tiles, between them tokens that end a tile or a row of tiles."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import TiledLayout


@register("ovis2")
class Ovis2(TiledLayout):
    """The canvas is read from the token ids: start of image, end of base view, end of tile, end of row, end of image."""

    base = "first"
    prefix = SHARING

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        start, _, tile, row, end = image.model.config.visual_indicator_token_ids
        ids = image.ids_between(start, end)
        rows = ids.count(row) + 1
        return rows, ids.count(tile) // rows + 1
