"""Learned queries that resample an image: as many image tokens as queries, none of which is a part of the image."""

from __future__ import annotations

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.tokens.layout import ImageLayout

QUERIES = "learned queries resample the image into its tokens, and each query attends to all of the tower's patches"


class Resampled(Backbone):
    """A subclass says how many tokens an image has."""

    no_grid_reason = QUERIES
    prefix = SHARING

    def token_count(self, image: ProcessedImage) -> int:
        """How many tokens the processor wrote for this image."""
        raise NotImplementedError

    def layout(self, image: ProcessedImage) -> ImageLayout:
        return ImageLayout((), tuple(range(self.token_count(image))), self.no_grid_reason)


@register("aria")
class Aria(Resampled):
    """As many queries for each crop as its size in pixels asks for."""

    def token_count(self, image: ProcessedImage) -> int:
        (count,) = image.processor._get_num_multimodal_tokens(image_sizes=[image.size])["num_image_tokens"]
        return int(count)


@register("deepseek_ocr2")
class DeepseekOcr2(Resampled):
    """The queries of the tiles, those of the whole image, and a separator."""

    tiled = True

    def token_count(self, image: ProcessedImage) -> int:
        written: str = image.processor.replace_image_token(image.inputs, image.index)
        return written.count(image.processor.image_token)
