"""Perception LM: the whole image as one square, then the tiles of a canvas; patches are pooled in squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.tiled_layout import tiled_grid
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("perception_lm")
class PerceptionLM(Backbone):
    """An image that fits one tile is still shown twice; only where the processor makes "thumb" alone there is one view."""

    prefix = SHARING
    joined_along: ClassVar[Mapping[str, int]] = {"pixel_values": 1}  # images of unequal numbers of tiles are one row of tiles

    tiled = True

    def layout(self, image: ProcessedImage) -> ImageLayout:
        images, (height, width) = image.image_processor, image.size
        patches = images.tile_size // image.processor.patch_size
        side = patches // image.processor.pooling_ratio
        covered = patches * image.processor.patch_size / images.tile_size
        if images.vision_input_type != "thumb+tile":
            return ImageLayout((square_grid(side, image.size, covered=covered),))
        cols, rows = 1, 1
        if images.max_num_tiles > 1:
            fitting = images._fit_image_to_canvas(width, height, images.tile_size)
            cols, rows = fitting or images._find_closest_aspect_ratio(width, height, images.tile_size)
        base = square_grid(side, image.size, covered=covered, name="base")
        return ImageLayout((base, tiled_grid(rows, cols, side, image.size, first=side**2, covered=covered)))

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        rows, cols = video.patches(video.processor.patch_size, video.processor.pooling_ratio)
        return VideoLayout.repeated(Grid.whole(rows, cols, video.size, name="video"), video.frames)

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        pooled = model.config.projector_pooling_ratio
        return Grid.whole(view.rows * pooled, view.cols * pooled, view.image_size) if view else None
