"""Cosmos 3 Edge: merged patches, and a type for each token that the model needs and its processor leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import UnsharedMergedPatches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("cosmos3_edge")
class Cosmos3Edge(UnsharedMergedPatches):
    """Image tokens have the type 1, of which M-RoPE makes their positions."""

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        if "mm_token_type_ids" in inputs or "image_grid_thw" not in inputs:
            return dict(inputs)
        return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}
