"""Janus: the whole picture in the middle of a padded square, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.tower import seen_share, square_patches, upper_left
from probe.tokens.layout import Grid, ImageLayout


@register("janus")
class Janus(Backbone):
    """The longer edge fills the square."""

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        images, side = processor.image_processor, round(processor.num_image_tokens**0.5)
        edge = images.size["height"]
        filled = [max(round(length * edge / max(image_size)), images.min_size) for length in image_size]
        ends = [(-((edge - length) // 2), edge - (edge - length) // 2) for length in filled]
        (top, bottom), (left, right) = (
            (start / length * pixels, end / length * pixels) for (start, end), length, pixels in zip(ends, filled, image_size, strict=True)
        )
        seen = seen_share(model, inputs, side)
        return ImageLayout((Grid.whole(side, side, image_size, box=upper_left((left, top, right, bottom), seen, seen)),))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)
