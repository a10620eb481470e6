"""Decoders that attend across to encoded images: no image token is in their sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.errors import TemplateError

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


class CrossAttention(Backbone):
    """The prompt is in the decoder's sequence, the image is not; the tower's states can be read."""

    no_grid_reason = "the image is not in the sequence: blocks attend across to all of it"
    no_prefix_reason = "the image is not in the decoder's sequence: blocks attend across to it in each forward"

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the image is not in the sequence: blocks attend across to it. Read Vision() instead."
    }
    template = "{question}"
    marks_images = False
    image_limit: ClassVar[int | None] = 1


@register("blip")
class Blip(CrossAttention):
    """A BERT decoder."""

    no_generate_reason = "its generate() replaces the prompt's first token and drops the last, which the processor wrote"
    part_paths: ClassVar[Mapping[str, str]] = POST_NORM_PARTS
    sum_reason = POST_NORM
    unreadable: ClassVar[Mapping[str, str]] = {**CrossAttention.unreadable, **NO_INTERFACE}


def starting_answer(model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A processor's output with what Hugging Face's `generate` begins the answer with: the decoder's start token, then `decoder_input_ids`.

    Raises:
        TemplateError: neither the model nor its generation settings name a start token.
    """
    configs = (model.generation_config, model.config, model.config.get_text_config(decoder=True))
    found = [getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id") for config in configs]
    known = [token for token in found if token is not None]
    if not known:
        raise TemplateError(
            f"{model.config.model_type} has no decoder_start_token_id, with which its answers begin. Set it in the configuration."
        )
    start = torch.tensor([known[:1]])
    given = processed.get("decoder_input_ids", start)
    if given.shape[1] and given[0, 0] == start[0, 0]:
        return {**processed, "decoder_input_ids": given}
    joined = {"decoder_input_ids": torch.cat([start, given.long()], dim=1)}
    if "decoder_attention_mask" in processed:
        mask = processed["decoder_attention_mask"]
        joined["decoder_attention_mask"] = torch.cat([torch.ones_like(start, dtype=mask.dtype), mask], dim=1)
    return {**processed, **joined}


class EncoderDecoder(Backbone):
    """The prompt, if there is one, goes into the encoder, too; the tower's states can be read."""

    no_grid_reason = ANSWER_ALONE.removesuffix(".")
    no_prefix_reason = "the image goes into an encoder, and the prompt, if there is one, with it"

    unreadable: ClassVar[Mapping[str, str]] = {"Projected": f"{ANSWER_ALONE} Read Vision() instead."}
    template: ClassVar[str | None] = "<image> {question}"

    def prompt_inputs(self, model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return starting_answer(model, processed)


@register("t5gemma2")
class MergedAttention(EncoderDecoder):
    """One softmax over the encoder's keys and the answer's own."""

    def other_keys(self, model: PreTrainedModel) -> frozenset[int]:
        """Every block."""
        return frozenset(range(model.config.get_text_config(decoder=True).num_hidden_layers))


@register("florence2")
class Florence2(EncoderDecoder):
    """A BART decoder. The processor puts the image tokens before the encoder's text."""

    template = "{question}"
    marks_images = False
    image_limit = 1
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "cross_attention": "encoder_attn", "mlp": "fc2"}
    sum_reason = POST_NORM


@register("pix2struct")
class Pix2Struct(EncoderDecoder):
    """A T5 decoder. The prompt begins the answer."""

    template = "{question}"
    marks_images = False
    image_limit = 1
    part_paths: ClassVar[Mapping[str, str]] = {
        "attention": "self_attention.attention",
        "cross_attention": "encoder_decoder_attention.attention",
        "mlp": "mlp.DenseReluDense",
    }
