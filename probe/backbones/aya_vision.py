"""Aya Vision: InternVL's tiles, with a token between them that numbers them."""

from __future__ import annotations

from probe.backbones.internvl import InternVL
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register


@register("aya_vision")
class AyaVision(InternVL):
    """Its processor's `patch_size` is that of a token."""

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        return int(image.processor.img_size // image.processor.patch_size)
