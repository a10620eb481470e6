"""BLIP-2: a Q-Former resamples the image into query tokens, which correspond to no cells."""

from __future__ import annotations

from typing import ClassVar

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import SquareTower, covered_share, patches_per_side
from probe.tokens.layout import ImageLayout


@register("blip-2")
class Blip2(SquareTower):
    """The tower takes the whole image as one square; the processor puts the image tokens before the prompt."""

    no_grid_reason = "a Q-Former resamples the image into query tokens, and each query attends to all of the image"
    template = "Question: {question} Answer:"
    marks_images = False
    no_prefix_reason = "its forward takes no text without an image"
    image_limit: ClassVar[int | None] = 1

    def layout(self, image: ProcessedImage) -> ImageLayout:
        side = patches_per_side(image.model)
        patches = square_grid(side, image.size, covered=covered_share(image, side))
        return ImageLayout((), tuple(range(image.processor.num_query_tokens)), self.no_grid_reason, shown=patches)
