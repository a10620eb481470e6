"""Gemma 3n: AltUp, with an axis of residual streams before the batch."""

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.registry import register
from probe.backbones.shared.residual_streams import ResidualStreams


@register("gemma3n")
class Gemma3n(ResidualStreams):
    """The streams are the first axis."""

    axes = ("stream", "batch", "token", "feature")
    last_is_normed = False
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
