"""Inkling 2: the inputs of attention and MLP are mixed from the states at earlier block boundaries."""

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone
from probe.backbones.registry import register


@register("inkling2")
class Inkling2(Backbone):
    """The layout of the image tokens is not declared."""

    part_paths: ClassVar[Mapping[str, str]] = {"attention": "post_attention_convolution", "mlp": "post_mlp_convolution"}
    sum_reason = "blocks at a boundary leave out the state before them, and the last state is mixed from those at the boundaries"
