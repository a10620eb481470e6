"""Images at their own aspect ratio, a whole number of cells high and wide: Qwen-VL, GLM-4V, Mistral 3, Pixtral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import tiled_grid
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("qwen2_vl", "qwen3_vl", "glm4v")
class MergedPatches(Backbone):
    """Squares of merge x merge patches become one token each, row by row. In the tower the patches of a square are contiguous."""

    prefix = SHARING

    def next_position(self, model: PreTrainedModel, length: int) -> int:
        # Image tokens have rotary positions by row and column, so the text after them continues from a smaller number.
        return length + int(model.model.rope_deltas)

    def suffix_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Tensor, length: int) -> dict[str, Tensor]:
        return {"position_ids": positions.expand(3, -1, -1)}

    def layout(self, image: ProcessedImage) -> ImageLayout:
        _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
        merge = image.image_processor.merge_size
        return ImageLayout((Grid.whole(rows // merge, cols // merge, image.size),))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        merge = model.config.vision_config.spatial_merge_size
        return tiled_grid(view.rows, view.cols, merge, view.image_size, name=view.name) if view else None


@register("mistral3", "llava/pixtral")
class RowBreaks(Backbone):
    """A token of another id ends each row, so the image tokens themselves are the cells, row by row."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        cell = image.processor.patch_size * image.processor.spatial_merge_size
        height, width = image.inputs["image_sizes"][image.index].tolist()
        return ImageLayout((Grid.whole(height // cell, width // cell, image.size),))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        merge = getattr(model.config, "spatial_merge_size", 1)
        return Grid.whole(view.rows * merge, view.cols * merge, view.image_size) if view else None
