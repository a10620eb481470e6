"""Janus: the whole image in the middle of a padded square, row by row."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import SquareTower, covered_share
from probe.tokens.layout import Box, ImageLayout


@register("janus")
class Janus(SquareTower):
    """The longer edge fills the square."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        side = image.tokens_per_side
        return ImageLayout((square_grid(side, image.size, covered=covered_share(image, side), box=_padded_square(image)),))


def _padded_square(image: ProcessedImage) -> Box:
    """What the padded square covers, in pixels of the original image."""
    images = image.image_processor
    edge = images.size["height"]
    resized = [max(round(length * edge / max(image.size)), images.min_size) for length in image.size]
    ends = [(-((edge - length) // 2), edge - (edge - length) // 2) for length in resized]
    (top, bottom), (left, right) = (
        (start / length * pixels, end / length * pixels) for (start, end), length, pixels in zip(ends, resized, image.size, strict=True)
    )
    return (left, top, right, bottom)
