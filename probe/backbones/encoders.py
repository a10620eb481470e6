"""Models with an encoder for the picture, or for the picture and the prompt: the decoder's sequence is the answer alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone, register

_ENCODED = "the picture goes into an encoder, and the decoder's sequence, which Hidden and Attention read, is the answer alone."


@register("florence2", "t5gemma2", "pix2struct", "pp_formulanet", "vision-encoder-decoder", "diffusion_gemma")
class Encoded(Backbone):
    """A vision tower, whose states can be read, and a decoder that attends across to it."""

    unreadable: ClassVar[Mapping[str, str]] = {"Projected": f"{_ENCODED} Read Vision() instead."}


@register("udop")
class Udop(Backbone):
    """One encoder for words and patches together."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": f"{_ENCODED} Read Hidden() of the answer instead.",
        "Vision": "one encoder reads words and patches together; there is no vision tower. Read Hidden() of the answer instead.",
    }
