"""The whole picture as one square: PaliGemma and Gemma 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from probe.backbones.base import Backbone, register
from probe.backbones.llava import square_patches
from probe.layout import Grid, ImageLayout


@register("gemma3")
class Square(Backbone):
    """A square of image tokens, row by row; Gemma 3 pools the tower's patches to it, and its processor leaves pan and scan off."""

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side = round(processor.image_seq_length**0.5)
        return ImageLayout((Grid.whole(side, side, image_size),))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)


@register("paligemma")
class PaliGemma(Square):
    """The prompt is read in both directions (token type 0), an answer in one (1)."""

    answer_fill: ClassVar[Mapping[str, int]] = {**Backbone.answer_fill, "token_type_ids": 1}

    def forward_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        # The processor makes labels of the prompt alone, for training; they do not fit a prompt with an answer.
        return {name: value for name, value in inputs.items() if name != "labels"}
