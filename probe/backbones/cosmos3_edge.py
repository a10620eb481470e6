"""Cosmos 3 Edge: merged patches, and a type for each token that the model needs and its processor leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import MergedPatches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("cosmos3_edge")
class Cosmos3Edge(MergedPatches):
    """Image tokens have the type 1 and video tokens 2, of which M-RoPE makes their positions."""

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        if "mm_token_type_ids" in inputs or not {"image_grid_thw", "video_grid_thw"} & inputs.keys():
            return dict(inputs)
        images, videos = (inputs["input_ids"] == token for token in (model.config.image_token_id, model.config.video_token_id))
        return {**inputs, "mm_token_type_ids": images.int() + 2 * videos.int()}
