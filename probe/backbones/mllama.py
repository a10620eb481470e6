"""Llama 3.2 Vision: the image is not in the sequence; some blocks attend across to the features of its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from probe.backbones.base import Backbone, Factor
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_tower import covered_share, patches_per_side
from probe.backbones.shared.tiled_layout import padded_canvas, tiled_grid
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register("mllama")
class Mllama(Backbone):
    """Up to four tiles, padded to the right and below. The tower takes them in one row: of each a class token, patches and padding."""

    tiled = True
    no_grid_reason = (
        "one token stands for the image, whose features the cross-attention blocks read beside the sequence; fold Vision instead"
    )
    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the image is not in the sequence: blocks attend across to its features. Read Vision() instead."
    }
    class_tokens = "kept"
    prefix = ("batched",)
    answer_fill: ClassVar[Mapping[str, int | None]] = {**Backbone.answer_fill, "cross_attention_mask": None}

    def residual_factors(self, block: nn.Module) -> tuple[Factor, Factor, Factor]:
        gates = [getattr(block, name, None) for name in ("cross_attn_attn_gate", "cross_attn_mlp_gate")]
        attention, mlp = (1.0 if gate is None else gate.detach().tanh() for gate in gates)
        return attention, mlp, 1.0

    def layout(self, image: ProcessedImage) -> ImageLayout:
        from transformers.models.mllama.image_processing_mllama import get_image_size_fit_to_canvas, get_optimal_tiled_canvas

        tile, side = image.image_processor.size["height"], patches_per_side(image.model)
        canvas = get_optimal_tiled_canvas(*image.size, image.image_processor.max_image_tiles, tile)
        padded = padded_canvas(image.size, canvas, get_image_size_fit_to_canvas(*image.size, *canvas, tile))
        rows, cols = (int(edge) // tile for edge in canvas)
        tile_length = -(-(side**2 + 1) // 8) * 8  # a class token and the patches, filled up to a multiple of 8
        covered = covered_share(image, side)
        patches = tiled_grid(rows, cols, side, image.size, first=1, covered=covered, canvas=padded, stride=tile_length)
        return ImageLayout((), (0,), self.no_grid_reason, shown=patches)

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        return view

    def suffix_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Tensor, length: int) -> dict[str, Tensor]:
        mask = inputs["cross_attention_mask"][:, -1:]  # the suffix attends to the tiles that the image token attends to
        return {"position_ids": positions, "cross_attention_mask": mask.expand(len(positions), length, -1, -1)}
