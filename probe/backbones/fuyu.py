"""Fuyu: patches of the image as it is, or shrunk to fit a canvas, padded to the right and below to whole patches."""

from __future__ import annotations

from math import ceil

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import padded_canvas
from probe.tokens.layout import Grid, ImageLayout


@register("fuyu")
class Fuyu(Backbone):
    """The processor puts the image before the prompt; a token of another id ends each row."""

    template = "{question}\n"
    marks_images = False
    image_limit = 1
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        images, (height, width) = image.image_processor, image.size
        scale = min(images.size["height"] / height, images.size["width"] / width)
        filled = image.size if scale >= 1 else (int(height * scale), int(width * scale))
        cell = (images.patch_size["height"], images.patch_size["width"])
        rows, cols = (ceil(pixels / edge) for pixels, edge in zip(filled, cell, strict=True))
        box = padded_canvas(image.size, (rows * cell[0], cols * cell[1]), filled)
        return ImageLayout((Grid.whole(rows, cols, image.size, box=box),))
