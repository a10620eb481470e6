"""Nemotron-H Omni: merged patches at the image's own aspect ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("nemotron_h_omni")
class NemotronHOmni(RowMajorPatches):
    """`image_grid_hw` counts the patches; the tower's are row by row."""

    video_layout = Backbone.video_layout  # its processor says nothing of a frame's rows and columns

    def layout(self, image: ProcessedImage) -> ImageLayout:
        rows, cols = image.inputs["image_grid_hw"][image.index].tolist()
        merge = self.merge_size(image.model)
        return ImageLayout((Grid.whole(rows // merge, cols // merge, image.size),))

    def merge_size(self, model: PreTrainedModel) -> int:
        return round(1 / model.config.downsample_ratio)
