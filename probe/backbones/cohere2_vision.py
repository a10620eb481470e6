"""Command A Vision: InternVL's tiles, with a line break after each, on the canvas that stretches the image least."""

from __future__ import annotations

from probe.backbones.internvl import InternVL
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register


@register("cohere2_vision")
class Cohere2Vision(InternVL):
    """Its processor's `patch_size` is the number of tokens across a tile."""

    @staticmethod
    def optimal_canvas(image_size: tuple[int, int], tile_size: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
        from transformers.models.cohere2_vision.image_processing_cohere2_vision import get_optimal_tiled_canvas

        return get_optimal_tiled_canvas(image_size, tile_size, fewest, most)

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        return int(image.processor.patch_size)
