"""Gemma 3n: AltUp, with an axis of residual streams before the batch. The whole image is one square of image tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.backbones.shared.square_layout import square_grid
from probe.tokens.layout import ImageLayout


@register("gemma3n")
class Gemma3n(ResidualStreams):
    """The streams are the first axis."""

    axes = ("stream", "batch", "token", "feature")
    last_is_normed = False
    prefix = SHARING
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}

    def layout(self, image: ProcessedImage) -> ImageLayout:
        return ImageLayout((square_grid(image.tokens_per_side, image.size),))
