"""Janus and DeepSeek-VL: the whole image in the middle of a padded square, row by row."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import fitted_square
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import SquareTower, covered_share
from probe.tokens.layout import ImageLayout


@register("janus", "deepseek_vl", "deepseek_vl_hybrid")
class Janus(SquareTower):
    """The longer edge fills the square."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        side, images = image.tokens_per_side, image.image_processor
        box = fitted_square(image.size, images.size["height"], images.min_size)
        return ImageLayout((square_grid(side, image.size, covered=covered_share(image, side), box=box),))
