"""Emu 3: an image at its own aspect ratio, quantised into one word of the vocabulary for each cell, an end-of-line word after each row."""

from __future__ import annotations

from dataclasses import replace

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.discrete_images import DiscreteImages
from probe.backbones.shared.unpadded_tiles import grid_with_newlines
from probe.tokens.layout import Grid, ImageLayout


@register("emu3")
class Emu3(DiscreteImages):
    """`image_sizes` has the resized image's height and width."""

    prefix = SHARING
    same_shape = frozenset({"pixel_values"})  # its convolutions and norms run over the padding, too

    def layout(self, image: ProcessedImage) -> ImageLayout:
        cell = image.processor.downsample_ratio
        height, width = image.inputs["image_sizes"][image.index].tolist()
        whole = Grid.whole(height // cell, width // cell, image.size)
        grid, newlines = grid_with_newlines(whole.intervals(0), whole.intervals(1), image.size, 0)
        return ImageLayout((replace(grid, name="image"),), newlines)
