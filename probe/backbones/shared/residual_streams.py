"""Decoders whose blocks pass on several residual streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone
from probe.backbones.registry import register


@register("qwen4_exp")
class ResidualStreams(Backbone):
    """Streams concatenated along the features. The last hidden state, after they are mixed, is as wide as one of them."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "its first block takes several residual streams. Read Hidden(0, at='image') instead: the streams side by side, of "
        "which the first begins as the projected token."
    }
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mixer": "linear_attn", "mlp": "mlp"}
    sum_reason = "each block mixes several residual streams, and weighs what it adds to each of them by the states themselves"
