"""Llama 3.2 Vision: the picture is not in the sequence; some blocks attend across to the features of its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers.models.mllama.image_processing_mllama import get_image_size_fit_to_canvas, get_optimal_tiled_canvas

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import padded_canvas, tiled_grid
from probe.backbones.tower import patches_per_side, seen_share
from probe.tokens.layout import Grid, ImageLayout


@register("mllama")
class Mllama(Backbone):
    """Up to four tiles, padded to the right and below; the tower has them in one row, each a class token, its patches and a few fillers."""

    tiled = True
    no_grid_reason = (
        "one token stands for the picture, whose features the cross-attention blocks read beside the sequence; fold Vision instead"
    )
    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the picture is not in the sequence: blocks attend across to its features. Read Vision() instead."
    }
    class_tokens = "kept"
    prefix = ("batched",)
    answer_fill: ClassVar[Mapping[str, int | None]] = {**Backbone.answer_fill, "cross_attention_mask": None}

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        images, side = processor.image_processor, patches_per_side(model)
        tile, (height, width) = images.size["height"], image_size
        canvas = get_optimal_tiled_canvas(height, width, images.max_image_tiles, tile)
        filled = get_image_size_fit_to_canvas(height, width, *canvas, tile)
        rows, cols = (int(edge) // tile for edge in canvas)
        seen, padded = seen_share(model, inputs, side), padded_canvas(image_size, canvas, filled)
        shown = tiled_grid(rows, cols, side, image_size, first=1, seen=seen, canvas=padded, stride=_tile_length(side))
        return ImageLayout((), (0,), self.no_grid_reason, shown)

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        return view

    def suffix_inputs(self, model: Any, inputs: Mapping[str, Any], positions: Tensor, length: int) -> dict[str, Any]:
        mask = inputs["cross_attention_mask"][:, -1:]  # what follows sees the tiles that the image token sees
        return {"position_ids": positions, "cross_attention_mask": mask.expand(len(positions), length, -1, -1)}


def _tile_length(side: int) -> int:
    """Tokens of one tile: a class token and the patches, filled up to a multiple of 8."""
    return -(-(side**2 + 1) // 8) * 8
