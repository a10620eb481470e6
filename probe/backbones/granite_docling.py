"""Granite Docling: tiles, then the base view; four times as many tokens a tile on the fine path."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import TiledLayout


@register("granite_docling")
class GraniteDocling(TiledLayout):
    """The path is the same for all tiles of a prompt. The decoder multiplies its embeddings before the first block."""

    projected_states = False
    prefix = SHARING

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        rows, cols = image.image_processor.get_tile_grid(*image.size)
        return rows, cols

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        return image.tokens_per_side * (2 if "tile_fine_mask" in image.inputs else 1)
