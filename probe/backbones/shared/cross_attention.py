"""Decoders that attend across to encoded images: no image token is in their sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from probe.backbones.base import Backbone
from probe.backbones.registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ANSWER_ALONE = "the image goes into an encoder, and the decoder's sequence, which Hidden and Attention read, is the answer alone."

POST_NORM = "a block norms each sum, as BERT does: its output is the norm of a sum, not a sum"
POST_NORM_PARTS: Mapping[str, str] = {
    "attention": "attention.output.dense",
    "cross_attention": "crossattention.output.dense",
    "mlp": "output.dense",
    "projection": "attention.output.dense",
}
"""The parts of a BERT-like block."""

NO_INTERFACE: Mapping[str, str] = dict.fromkeys(
    ("Queries", "Keys", "Values"),
    "its attention does not go through transformers' attention interface, which is where they are read. Read Module() of the block's query, "
    "key or value projection instead.",
)


@register("idefics")
class CrossAttention(Backbone):
    """The prompt is in the decoder's sequence, the image is not; the tower's states can be read."""

    no_grid_reason = "the image is not in the sequence: blocks attend across to all of it"
    no_prefix_reason = "the image is not in the decoder's sequence: blocks attend across to it in each forward"

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the image is not in the sequence: blocks attend across to it. Read Vision() instead."
    }

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """IDEFICS' forward takes no text alone: a black image, which its last hidden state is free of where that is replaced."""
        if model.config.model_type != "idefics":
            return {}
        size = model.config.vision_config.image_size
        pixels = torch.zeros(1, 1, 3, size, size, dtype=model.dtype, device=model.device)
        return {"pixel_values": pixels, "image_attention_mask": torch.ones(1, 1, 1, dtype=torch.long, device=model.device)}


@register("blip")
class Blip(CrossAttention):
    """A BERT decoder."""

    part_paths: ClassVar[Mapping[str, str]] = POST_NORM_PARTS
    sum_reason = POST_NORM
    unreadable: ClassVar[Mapping[str, str]] = {**CrossAttention.unreadable, **NO_INTERFACE}


@register("pp_formulanet", "vision-encoder-decoder")
class EncoderDecoder(Backbone):
    """The prompt, if there is one, goes into the encoder, too; the tower's states can be read."""

    no_grid_reason = ANSWER_ALONE.removesuffix(".")
    no_prefix_reason = "the image goes into an encoder, and the prompt, if there is one, with it"

    unreadable: ClassVar[Mapping[str, str]] = {"Projected": f"{ANSWER_ALONE} Read Vision() instead."}

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """PP-FormulaNet's encoder takes nothing but an image: what it would return for one."""
        if model.config.model_type != "pp_formulanet":
            return {}
        states = torch.zeros(1, 1, model.config.get_text_config(decoder=True).hidden_size, dtype=model.dtype, device=model.device)
        return {"encoder_outputs": [states, states], "input_ids": None}


@register("t5gemma2", "diffusion_gemma")
class MergedAttention(EncoderDecoder):
    """One softmax over the encoder's keys and the answer's own."""

    def other_keys(self, model: PreTrainedModel) -> frozenset[int]:
        """Every block."""
        return frozenset(range(model.config.get_text_config(decoder=True).num_hidden_layers))


@register("florence2")
class Florence2(EncoderDecoder):
    """A BART decoder."""

    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "cross_attention": "encoder_attn", "mlp": "fc2"}
    sum_reason = POST_NORM


@register("pix2struct")
class Pix2Struct(EncoderDecoder):
    """A T5 decoder."""

    part_paths: ClassVar[Mapping[str, str]] = {
        "attention": "self_attention.attention",
        "cross_attention": "encoder_decoder_attention.attention",
        "mlp": "mlp.DenseReluDense",
    }
