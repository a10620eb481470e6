"""The picture as one square, row by row: PaliGemma, Gemma 3 and Chameleon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.llava import processed_box
from probe.backbones.tiles import tiled_layout
from probe.backbones.tower import seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("gemma3")
class Square(Backbone):
    """A square of image tokens, row by row; Gemma 3 pools the tower's patches to it, and its processor leaves pan and scan off."""

    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side = round(processor.image_seq_length**0.5)
        return tiled_layout(1, 1, side, image_size, seen=seen_share(model, inputs, side))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)


@register("paligemma")
class PaliGemma(Square):
    """The prompt is read in both directions (token type 0), an answer in one (1): image tokens see the question."""

    prefix = ()
    answer_fill: ClassVar[Mapping[str, int | None]] = {**Backbone.answer_fill, "token_type_ids": 1}

    def forward_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        # The processor makes labels of the prompt alone, for training; they do not fit a prompt with an answer.
        return {name: value for name, value in inputs.items() if name != "labels"}


@register("chameleon")
class Chameleon(Backbone):
    """The central square, quantised into words of the vocabulary: one for each cell, without a tower of attention blocks."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Vision": "convolutions turn the picture into words of the vocabulary; there is no tower of blocks. Read Projected() instead."
    }
    template = "<image>{question}"

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side, box = round(processor.image_seq_length**0.5), processed_box(processor.image_processor, image_size)
        return ImageLayout((Grid.whole(side, side, image_size, box=box),))
