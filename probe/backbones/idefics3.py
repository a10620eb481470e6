"""Idefics 3 and SmolVLM: as many tiles as the resized image fills, between them tokens that name each tile's row and column."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import TiledLayout


@register("idefics3", "smolvlm")
class Idefics3(TiledLayout):
    """Tiles, then the base view."""

    prefix = SHARING

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        _, rows, cols = image.image_processor.get_number_of_image_patches(*image.size, {})
        return rows, cols
