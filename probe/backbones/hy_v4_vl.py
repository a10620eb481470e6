"""Hunyuan 4: merged patches with a newline token after each row, and several residual streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.backbones.shared.unpadded_tiles import grid_with_newlines
from probe.tokens.layout import ImageLayout


@register("hy_v4_vl")
class HYV4VL(ResidualStreams, RowMajorPatches):
    """The streams are the last axis but one."""

    axes = ("batch", "token", "stream", "feature")
    prefix = ()
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mlp": "mlp"}

    def layout(self, image: ProcessedImage) -> ImageLayout:
        whole = super().layout(image).grid()
        grid, newlines = grid_with_newlines(whole.intervals(0), whole.intervals(1), image.size, 0)
        return ImageLayout((replace(grid, name="image"),), newlines)
