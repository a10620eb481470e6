"""LLaVA-NeXT-Video: LLaVA-1.6's images; of a video each frame's central square, 2 x 2 of its patches averaged into one token."""

from __future__ import annotations

from probe.backbones.llava_next import LlavaNext
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.tokens.layout import Grid
from probe.tokens.video import VideoLayout

POOLED = 2
"""Patches across one token of a frame: the processor's own number."""


@register("llava_next_video")
class LlavaNextVideo(LlavaNext):
    """Frames follow each other without a token between them."""

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        rows, cols = video.patches(video.processor.patch_size, POOLED)
        box = processed_box(video.video_processor, video.size)
        return VideoLayout.repeated(Grid.whole(rows, cols, video.size, name="video", box=box), video.frames)
