"""Qwen2.5-VL: the tower sorts merged patches by its attention windows; the image tokens are in the usual order again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import MergedPatches
from probe.tokens.layout import Grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("qwen2_5_vl", "exaone4_5", "hyperclovax_vision_v2", "qwen2_5_omni_thinker")
class WindowedPatches(MergedPatches):
    """Patches in window order; within a window, merge x merge squares in row-major order."""

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        from transformers.vision_utils import get_vision_window_index

        squares = super().vision_grid(model, view)
        if view is None or squares is None:
            return None
        vision = model.config.vision_config
        merge = vision.spatial_merge_size
        grid = torch.tensor([[1, view.rows * merge, view.cols * merge]])
        order, _ = get_vision_window_index(grid, merge, vision.window_size, vision.patch_size)
        index_of, patches = order.argsort().tolist(), merge**2
        return replace(squares, tokens=tuple(index_of[token // patches] * patches + token % patches for token in squares.tokens))
