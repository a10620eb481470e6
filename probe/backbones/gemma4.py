"""Gemma 4: an image at its own aspect ratio; squares of patches are pooled into one token each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("gemma4")
class Gemma4(Backbone):
    """The processor returns each patch's column and row, and -1 for padding. The tower pools."""

    prefix = SHARING
    class_tokens = "last"  # it has none; padding is after the patches

    def patches_across_cell(self, image: ProcessedImage) -> int:
        """How many of the processor's patches lie across one image token."""
        return int(image.image_processor.pooling_kernel_size)

    def layout(self, image: ProcessedImage) -> ImageLayout:
        last_col, last_row = image.inputs["image_position_ids"][image.index].amax(dim=0).tolist()
        patches = self.patches_across_cell(image)
        return ImageLayout((Grid.whole((last_row + 1) // patches, (last_col + 1) // patches, image.size),))

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        """Frames are laid out as images, by a processor with a budget of its own."""
        first = sum(video.inputs["num_frames_per_video"][: video.index])
        last_col, last_row = video.inputs["video_position_ids"][int(first)].amax(dim=0).tolist()
        patches = self.patches_across_frame_cell(video)
        frame = Grid.whole((last_row + 1) // patches, (last_col + 1) // patches, video.size, name="video")
        return VideoLayout.repeated(frame, video.frames)

    def patches_across_frame_cell(self, video: ProcessedVideo) -> int:
        """How many of the video processor's patches lie across one token."""
        return int(video.video_processor.pooling_kernel_size)

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        pooled = model.config.vision_config.pooling_kernel_size
        return Grid.whole(view.rows * pooled, view.cols * pooled, view.image_size) if view else None


@register("gemma4_unified")
class Gemma4Unified(Gemma4):
    """Without a tower: the processor itself joins the patches of a cell."""

    def patches_across_cell(self, image: ProcessedImage) -> int:
        return 1

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> None:
        return None

    def patches_across_frame_cell(self, video: ProcessedVideo) -> int:
        return 1
