"""Nemotron-H Omni: merged patches at the image's own aspect ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.errors import InvalidRead
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("nemotron_h_omni")
class NemotronHOmni(RowMajorPatches):
    """`image_grid_hw` counts the patches; the tower's are row by row."""

    def layout(self, image: ProcessedImage) -> ImageLayout:
        rows, cols = image.inputs["image_grid_hw"][image.index].tolist()
        merge = self.merge_size(image.model)
        return ImageLayout((Grid.whole(rows // merge, cols // merge, image.size),))

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        """All frames at one size. A prompt has one video, and each step's frames have a text before them."""
        rows, cols = video.patches(video.video_processor.patch_size, self.merge_size(video.model))
        grid = Grid.whole(rows, cols, video.size, name="video")
        return VideoLayout.repeated(grid, video.frames, merged=video.processor.video_temporal_patch_dim)

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        if "pixel_values_videos" in inputs and model.video_pruning_rate > 0:
            raise InvalidRead(
                f"video_pruning_rate={model.video_pruning_rate}: the model's forward drops tokens of a video, so that no state has the position "
                "of its token in input_ids. Set model.video_pruning_rate = 0 on the Hugging Face model."
            )
        return dict(inputs)

    def merge_size(self, model: PreTrainedModel) -> int:
        return round(1 / model.config.downsample_ratio)
