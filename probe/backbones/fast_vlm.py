"""FastVLM: the central square of the image, or what the processor shows of it, under a hybrid tower of convolutions."""

from __future__ import annotations

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.backbones.shared.square_tower import centred_on_receptive_fields
from probe.tokens.layout import Grid, ImageLayout


@register("fast_vlm")
class FastVlm(Backbone):
    """The convolutions' stride is the processor's `patch_size`."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        stride = image.processor.patch_size
        rows, cols = (edge // stride for edge in image.input_size)
        whole = Grid.whole(rows, cols, image.size, box=processed_box(image.image_processor, image.size))
        return ImageLayout((centred_on_receptive_fields(whole, stride),))
