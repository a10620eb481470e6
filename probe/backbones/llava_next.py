"""LLaVA-1.6: a base view, then tiles of the unpadded picture with a newline token after each row."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.modeling_outputs import BaseModelOutputWithPooling

from probe.backbones.base import register
from probe.backbones.llava import Llava, one_view
from probe.backbones.tower import patches_per_side, tower_size
from probe.errors import GridMismatch
from probe.tokens.layout import Grid, ImageLayout, Spans


@register("llava_next")
class LlavaNext(Llava):
    """LLaVA-1.6. With `tiles=False` the base view alone: as many tokens as the tower has patches, without the newline embedding."""

    tiled = True

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        tile, patch = tower_size(model)
        base = whole_tile(one_view(model, image_size, (tile, tile), None), model)
        grid, newlines = tiled_grid(image_size, processor.image_processor.image_grid_pinpoints, tile, patch, base.tokens)
        return ImageLayout((replace(base.grid(), name="base"), grid), newlines)

    def forward_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if "image_sizes" in inputs or "pixel_values" not in inputs:
            return dict(inputs)
        # Hugging Face always adds a tile to the base view, so the base view alone has to be encoded here.
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        projected = project(model, inputs["pixel_values"])
        if "mm_encoder_outputs" in inspect.signature(model.forward).parameters:
            return {**rest, "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=list(projected))}}
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        image = (inputs["input_ids"] == model.config.image_token_id)[..., None]
        del rest["input_ids"]
        return {**rest, "inputs_embeds": embedded.masked_scatter(image, projected.flatten(0, 1).to(embedded.dtype))}


def project(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Projected image tokens (image, token, feature) of square pictures, by the model's own tower, feature layers and projector."""
    inner, config = model.model, model.config
    states = inner.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
    layers = config.vision_feature_layer
    chosen = states[layers] if isinstance(layers, int) else torch.cat([states[layer] for layer in layers], dim=-1)
    return inner.multi_modal_projector(chosen[:, 1:] if config.vision_feature_select_strategy == "default" else chosen)


def whole_tile(layout: ImageLayout, model: Any) -> ImageLayout:
    """The layout of one tile, which Hugging Face folds into a square of cells.

    Raises:
        GridMismatch: its tokens are no such square.
    """
    side = patches_per_side(model)
    if layout.tokens != side**2:
        config = model.config
        raise GridMismatch(
            f"{config.model_type} folds each tile into {side} x {side} cells, but vision_feature_select_strategy="
            f"{config.vision_feature_select_strategy!r} leaves {layout.tokens} tokens of its tower, with which Hugging Face's own forward "
            'fails. "default" drops a class token and "full" needs a tower without one: set the strategy that fits this tower.'
        )
    return layout


def tiled_grid(image_size: tuple[int, int], pinpoints: list[list[int]], tile: int, patch: int, first: int) -> tuple[Grid, tuple[int, ...]]:
    """The unpadded tiles as one grid, and the newline token after each of its rows.

    Args:
        image_size: (height, width) of the original picture.
        pinpoints: the canvases (height, width) that the processor may choose.
        tile, patch: pixels across one tile, and across one cell. What a tile has behind its last cell is in none.
        first: index of the first tile token among the image's tokens.
    """
    height, width = image_size
    canvas_height, canvas_width = select_best_resolution([height, width], pinpoints)
    side = tile // patch
    rows, cols = canvas_height // tile * side, canvas_width // tile * side
    pad_rows = pad_cols = 0
    if width / height > cols / rows:
        pad_rows = (rows - int(round(height * (cols / width), 7))) // 2
    else:
        pad_cols = (cols - int(round(width * (rows / height), 7))) // 2
    scale = min(canvas_width / width, canvas_height / height)

    def spans(count: int, padding: int, canvas: int, length: int) -> Spans:
        shown = min(math.ceil(length * scale), canvas)
        # The picture sits in the middle of its canvas; whole rows or columns of padding were taken off, a part of a cell may remain.
        starts = [place // side * tile + place % side * patch - (canvas - shown) // 2 for place in range(padding, count - padding)]
        return tuple((start / shown * length, (start + patch) / shown * length) for start in starts)

    down, across = spans(rows, pad_rows, canvas_height, height), spans(cols, pad_cols, canvas_width, width)
    tokens, newlines = rows_of_tokens(len(down), len(across), first)
    return Grid.at(down, across, tokens, image_size, name="tiles"), newlines


def rows_of_tokens(rows: int, cols: int, first: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of the cells, row by row, and the newline tokens, one behind each row, from `first` on."""
    starts = [first + row * (cols + 1) for row in range(rows)]
    return tuple(start + col for start in starts for col in range(cols)), tuple(start + cols for start in starts)
