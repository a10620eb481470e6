"""PaliGemma: the whole image as a square, one image token for each patch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import SquareLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("paligemma")
class PaliGemma(SquareLayout):
    """The prompt (token type 0) has no causal mask, so image tokens attend to the question; an answer (1) has one."""

    no_prefix_reason = "its image tokens attend to the question"
    answer_fill: ClassVar[Mapping[str, int | None]] = {**Backbone.answer_fill, "token_type_ids": 1}

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        # For training the processor makes labels of the prompt alone; they do not fit a prompt with an answer.
        return {name: value for name, value in inputs.items() if name != "labels"}
