"""Diffusion Gemma: a decoder refines a canvas of tokens, which a prompt does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import MergedAttention
from probe.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("diffusion_gemma")
class DiffusionGemma(MergedAttention):
    """An encoding has no canvas."""

    def prompt_inputs(self, model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise TemplateError(
            f"diffusion_gemma refines a canvas of {model.config.canvas_length} tokens that begins as noise, so a prompt alone says nothing of "
            "its decoder's positions. Call the processor yourself, add decoder_input_ids, and run() that."
        )
