"""Hunyuan 4: merged patches with a newline token after each row, and several residual streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.backbones.shared.unpadded_tiles import grid_with_newlines
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout


@register("hy_v4_vl")
class HYV4VL(ResidualStreams, RowMajorPatches):
    """The streams are the last axis but one."""

    axes = ("batch", "token", "stream", "feature")
    prefix = ()
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mlp": "mlp"}

    def layout(self, image: ProcessedImage) -> ImageLayout:
        grid, newlines = _with_newlines(super().layout(image).grid())
        return ImageLayout((grid,), newlines)

    def video_layout(self, video: ProcessedVideo) -> VideoLayout | None:
        """A newline token after each row of each frame."""
        plain = super().video_layout(video)
        if plain is None:
            return None
        grid, newlines = _with_newlines(plain.grid())
        merged = video.video_processor.temporal_patch_size
        return VideoLayout.repeated(grid, video.frames, merged=merged, stride=len(grid.tokens) + len(newlines))


def _with_newlines(whole: Grid) -> tuple[Grid, tuple[int, ...]]:
    grid, newlines = grid_with_newlines(whole.intervals(0), whole.intervals(1), whole.image_size, 0)
    return replace(grid, name=whole.name), newlines
