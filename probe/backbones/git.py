"""GIT: the tower's states, class token included, come before the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.backbones.shared.cross_attention import NO_INTERFACE, POST_NORM, POST_NORM_PARTS
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("git")
class Git(Backbone):
    """The model itself puts the image before `input_ids`, which hold no image token."""

    no_prefix_reason = "the model itself puts the image before the text in each forward"
    part_paths: ClassVar[Mapping[str, str]] = POST_NORM_PARTS
    sum_reason = POST_NORM
    unreadable: ClassVar[Mapping[str, str]] = NO_INTERFACE
    template = "{question}"
    marks_images = False
    image_limit = 1

    def leading(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
        pixels = inputs["pixel_values"]
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        patch = model.config.vision_config.patch_size
        return int(frames * ((pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + 1))

    def layout(self, image: ProcessedImage) -> ImageLayout:
        patch = image.model.config.vision_config.patch_size
        rows, cols = (edge // patch for edge in image.input_size)
        box = processed_box(image.image_processor, image.size)
        return ImageLayout((Grid.whole(rows, cols, image.size, first=1, box=box),), (0,))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        return Grid.whole(view.rows, view.cols, view.image_size, box=view.box) if view else None
