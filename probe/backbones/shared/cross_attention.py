"""Decoders that attend across to encoded images: no image token is in their sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone
from probe.backbones.registry import register

ANSWER_ALONE = "the image goes into an encoder, and the decoder's sequence, which Hidden and Attention read, is the answer alone."


@register("blip", "idefics")
class CrossAttention(Backbone):
    """The prompt is in the decoder's sequence, the image is not; the tower's states can be read."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "the image is not in the sequence: blocks attend across to it. Read Vision() instead."
    }


@register("florence2", "t5gemma2", "pix2struct", "pp_formulanet", "vision-encoder-decoder", "diffusion_gemma")
class EncoderDecoder(Backbone):
    """The prompt, if there is one, goes into the encoder, too; the tower's states can be read."""

    unreadable: ClassVar[Mapping[str, str]] = {"Projected": f"{ANSWER_ALONE} Read Vision() instead."}
