"""LLaVA-1.6: a base view, then tiles of the unpadded image with a newline token after each row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probe.backbones.llava import Llava
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_tower import tower_size
from probe.backbones.shared.unpadded_tiles import base_view, unpadded_tiles
from probe.tokens.layout import ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("llava_next")
class LlavaNext(Llava):
    """With `tiles=False` the base view alone: as many tokens as the tower has patches, without the newline embedding."""

    tiled = True

    def layout(self, image: ProcessedImage) -> ImageLayout:
        base = base_view(image)
        tiles, newlines = unpadded_tiles(image.size, image.image_processor.image_grid_pinpoints, *tower_size(image.model), len(base.tokens))
        return ImageLayout((base, tiles), newlines)

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        if "image_sizes" in inputs or "pixel_values" not in inputs:
            return dict(inputs)
        # Hugging Face always adds a tile to the base view, so the base view alone has to be encoded here.
        rest: dict[str, object] = {name: value for name, value in inputs.items() if name != "pixel_values"}
        projected = _project(model, inputs["pixel_values"])
        if "mm_encoder_outputs" in inspect.signature(model.forward).parameters:
            from transformers.modeling_outputs import BaseModelOutputWithPooling

            return {**rest, "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=list(projected))}}
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        image = (inputs["input_ids"] == model.config.image_token_id)[..., None]
        del rest["input_ids"]
        return {**rest, "inputs_embeds": embedded.masked_scatter(image, projected.flatten(0, 1).to(embedded.dtype))}


def _project(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Projected image tokens (image, token, feature) of square images, by the model's own tower, feature layers and projector."""
    inner, config = model.model, model.config
    states = inner.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
    layers = config.vision_feature_layer
    chosen = states[layers] if isinstance(layers, int) else torch.cat([states[layer] for layer in layers], dim=-1)
    return inner.multi_modal_projector(chosen[:, 1:] if config.vision_feature_select_strategy == "default" else chosen)
