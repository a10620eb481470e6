"""Images at their own aspect ratio, a whole number of cells high and wide: Qwen-VL, GLM-4V, Mistral 3 and Pixtral."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers.vision_utils import get_vision_window_index

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.tiles import tiled_grid
from probe.tokens.layout import Grid, ImageLayout


@register("qwen2_vl", "qwen3_vl", "glm4v")
class MergedPatches(Backbone):
    """Squares of merge x merge patches become one token each, row by row; in the tower the patches of a square stand together."""

    prefix = SHARING

    def next_position(self, model: Any, length: int) -> int:
        # A picture's tokens have rotary positions by row and column, so that the text behind it goes on from a smaller number.
        return length + int(model.model.rope_deltas)

    def suffix_inputs(self, model: Any, inputs: Mapping[str, Any], positions: torch.Tensor, length: int) -> dict[str, Any]:
        return {"position_ids": positions.expand(3, -1, -1)}

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        _, rows, cols = inputs["image_grid_thw"][index].tolist()
        merge = processor.image_processor.merge_size
        return ImageLayout((Grid.whole(rows // merge, cols // merge, image_size),))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        merge = model.config.vision_config.spatial_merge_size
        return tiled_grid(view.rows, view.cols, merge, view.image_size, name=view.name) if view else None


@register("qwen2_5_vl")
class WindowedPatches(MergedPatches):
    """The tower sorts the squares by the windows that they attend in; the image tokens are back in order."""

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        squares, vision = super().vision_grid(model, view), model.config.vision_config
        if view is None or squares is None:
            return None
        merge = vision.spatial_merge_size
        grid = torch.tensor([[1, view.rows * merge, view.cols * merge]])
        order, _ = get_vision_window_index(grid, merge, vision.window_size, vision.patch_size)
        places, unit = order.argsort().tolist(), merge**2
        return replace(squares, tokens=tuple(places[token // unit] * unit + token % unit for token in squares.tokens))


@register("mistral3", "llava/pixtral")
class RowBreaks(Backbone):
    """A token of another id ends each row, so that the image tokens themselves are the cells, row by row."""

    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        cell = processor.patch_size * processor.spatial_merge_size
        height, width = inputs["image_sizes"][index].tolist()
        return ImageLayout((Grid.whole(height // cell, width // cell, image_size),))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        merge = getattr(model.config, "spatial_merge_size", 1)
        return Grid.whole(view.rows * merge, view.cols * merge, view.image_size) if view else None
