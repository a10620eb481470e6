"""UDOP: one encoder for text tokens and patches together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import ANSWER_ALONE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("udop")
class Udop(Backbone):
    """Neither projected tokens nor vision states exist."""

    no_grid_reason = ANSWER_ALONE.removesuffix(".")
    no_prefix_reason = "one encoder reads the image and the prompt together"
    part_paths: ClassVar[Mapping[str, str]] = {
        "attention": "layer.0.SelfAttention",
        "cross_attention": "layer.1.EncDecAttention",
        "mlp": "layer.2.DenseReluDense",
    }
    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": f"{ANSWER_ALONE} Read Hidden() of the answer instead.",
        "Vision": "one encoder reads text tokens and patches together; there is no vision tower. Read Hidden() of the answer instead.",
    }

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """The token's box on the page."""
        return {"bbox": torch.zeros(1, 1, 4, device=model.device)}
