"""Llama 4: tiles of a picture that keeps its aspect ratio on a padded canvas, then the whole picture as one square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.llama4.image_processing_llama4 import get_max_res_without_distortion

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import padded_canvas, tiled_layout
from probe.backbones.tower import seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("llama4")
class Llama4(Backbone):
    """The canvas is read off the tokens between the tiles; four patches are shuffled into one token."""

    tiled = True
    class_tokens = "last"
    projected_states = False

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        images, ids = processor.image_processor, inputs["input_ids"][0].tolist()
        marks = (processor.start_of_img_token, processor.end_of_img_token, processor.tile_token, processor.tile_global_token)
        start, end, beside, below = processor.tokenizer.convert_tokens_to_ids(list(marks))
        first, last = ([i for i, token in enumerate(ids) if token == mark][index] for mark in (start, end))
        rows = max(ids[first:last].count(below), 1)
        cols = ids[first:last].count(beside) // rows + 1
        tile = images.size["height"]
        canvas = (rows * tile, cols * tile)
        room = canvas if images.resize_to_max_canvas else tuple(min(max(a, tile), b) for a, b in zip(image_size, canvas, strict=True))
        filled = tuple(max(edge, 1) for edge in get_max_res_without_distortion(image_size, room))
        side = round((tile // processor.patch_size) / processor.downsample_ratio**0.5)
        seen, padded = seen_share(model, inputs, side), padded_canvas(image_size, canvas, filled)
        return tiled_layout(rows, cols, side, image_size, seen=seen, canvas=padded)

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)
