"""Video-LLaVA: LLaVA-1.5's images; of a video each frame's central square, a class token before its patches."""

from __future__ import annotations

from probe.backbones.llava import Llava
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.tokens.layout import Grid
from probe.tokens.video import VideoLayout


@register("video_llava")
class VideoLlava(Llava):
    """The projected class token is kept in frames, not in images."""

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        (rows, cols), extra = video.patches(video.processor.patch_size), video.processor.num_additional_image_tokens
        frame = Grid.whole(rows, cols, video.size, name="video", first=extra, box=processed_box(video.video_processor, video.size))
        return VideoLayout.repeated(frame, video.frames, stride=extra + rows * cols)
