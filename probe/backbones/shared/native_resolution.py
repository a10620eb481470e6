"""Images at their own aspect ratio, a whole number of cells high and wide: Qwen-VL, GLM-4V, Mistral 3, Pixtral."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.square_tower import upper_left
from probe.backbones.shared.tiled_layout import tiled_grid
from probe.tokens.layout import Box, Grid, ImageLayout, whole_box
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("muse_glimmer")
class NativeResolution(Backbone):
    """Squares of merge x merge patches become one token each, row by row; `image_grid_thw` counts the patches."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
        merge = image.image_processor.merge_size
        return ImageLayout((Grid.whole(rows // merge, cols // merge, image.size, box=self.covered_box(image)),))

    def video_layout(self, video: ProcessedVideo) -> VideoLayout | None:
        depth, rows, cols = video.inputs["video_grid_thw"][video.index].tolist()
        merge, merged = video.video_processor.merge_size, video.video_processor.temporal_patch_size
        steps = ceil(video.frames / merged)
        if depth not in (steps, steps * merged):  # a long video that is cut into chunks has several rows
            return None
        frame = Grid.whole(rows // merge, cols // merge, video.size, name="video")
        return VideoLayout.repeated(frame, video.frames, merged=merged)

    def covered_box(self, image: ProcessedImage) -> Box:
        """What the patches cover, in pixels of the original image; it reaches past the image where that is padded."""
        return whole_box(image.size)


@register(
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "cohere_compass",
    "cosmos3_omni",
    "ernie4_5_vl_moe",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "glmga",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_omni_moe_thinker",
    "dots3_note",
    "lfm3_vl",
)
class MergedPatches(NativeResolution):
    """In the tower the patches of a square are contiguous."""

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        merge = model.config.vision_config.spatial_merge_size
        return tiled_grid(view.rows, view.cols, merge, view.image_size, name=view.name, canvas=view.box) if view else None


@register("paddleocr_vl")
class RowMajorPatches(NativeResolution):
    """In the tower the patches are row by row."""

    def merge_size(self, model: PreTrainedModel) -> int:
        """How many patches lie across one image token."""
        return int(getattr(model.config.vision_config, "spatial_merge_size", 1))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        merge = self.merge_size(model)
        return Grid.whole(view.rows * merge, view.cols * merge, view.image_size, box=view.box) if view else None


@register("video_llama_3")
class CompressedFrames(RowMajorPatches):
    """Cells of a frame that hardly differ from those of the frame before get no token."""

    def video_layout(self, video: ProcessedVideo) -> VideoLayout | None:
        return super().video_layout(video) if bool(video.inputs["video_compression_mask"].all()) else None


@register("mistral3", "llava/pixtral", "lighton_ocr", "mistral_large4")
class RowBreaks(Backbone):
    """A token of another id ends each row, so the image tokens themselves are the cells, row by row."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        cell = image.processor.patch_size * image.processor.spatial_merge_size
        height, width = image.inputs["image_sizes"][image.index].tolist()
        rows, cols = height // cell, width // cell
        box = upper_left(whole_box(image.size), rows * cell / height, cols * cell / width)
        return ImageLayout((Grid.whole(rows, cols, image.size, box=box),))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        if view is None:
            return None
        merge, (height, width) = getattr(model.config, "spatial_merge_size", 1), view.image_size
        # A processor that resizes to whole patches alone may leave patches after the last whole cell.
        rows, cols = round(view.rows * merge * height / view.box[3]), round(view.cols * merge * width / view.box[2])
        return Grid.whole(rows, cols, view.image_size)
