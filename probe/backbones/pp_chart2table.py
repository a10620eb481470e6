"""PP-Chart2Table: GOT-OCR 2 without tiles, whose prompt holds the image tokens already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import centred_on_receptive_fields, square_patches, tower_size
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("pp_chart2table")
class PPChart2Table(Backbone):
    """One token of 4 x 4 patches."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        _, patch = tower_size(image.model)
        side = image.input_size[0] // patch // 4
        return ImageLayout((centred_on_receptive_fields(square_grid(side, image.size), 4),))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid:
        return square_patches(model, None if view is None else Grid.whole(view.rows, view.cols, view.image_size))
