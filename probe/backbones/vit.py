"""Vision transformers by themselves: the patches of the image that its image processor shows, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.backbones.shared.square_tower import share_of_whole_patches, upper_left
from probe.tokens.layout import Box, Grid, ImageLayout, whole_box

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("vit", "deit", "beit", "ijepa", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit")
@register("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model", "siglip", "siglip_vision_model")
class VisionTransformer(Backbone):
    """Patches of one size over an input of any size, after the class and register tokens if there are any."""

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        return view

    def input_grid(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], index: int) -> Grid | None:
        height, width = inputs["pixel_values"].shape[-2:]
        return self._patches(model, (height, width), whole_box((height, width)))

    def layout(self, image: ProcessedImage) -> ImageLayout | None:
        grid = self._patches(image.model, image.input_size, processed_box(image.image_processor, image.size))
        return ImageLayout((replace(grid, image_size=image.size),))

    def _patches(self, model: PreTrainedModel, size: tuple[int, int], box: Box) -> Grid:
        """The patches of an input of this size that shows a box of the image."""
        patch = patch_size(model)
        (rows, down), (cols, across) = (
            (edge // one, share_of_whole_patches(edge, one, edge // one)) for edge, one in zip(size, patch, strict=True)
        )
        return Grid.whole(rows, cols, size, box=upper_left(box, down, across))


@register("siglip2", "siglip2_vision_model")
class Siglip2(VisionTransformer):
    """The image's own aspect ratio in whole patches, then padding up to one length."""

    class_tokens = "last"

    def input_grid(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], index: int) -> Grid | None:
        rows, cols = inputs["spatial_shapes"][index].tolist()
        down, across = patch_size(model)
        return Grid.whole(rows, cols, (rows * down, cols * across))

    def layout(self, image: ProcessedImage) -> ImageLayout | None:
        rows, cols = image.inputs["spatial_shapes"][image.index].tolist()
        return ImageLayout((Grid.whole(rows, cols, image.size),))


def patch_size(model: PreTrainedModel) -> tuple[int, int]:
    """(height, width) of a patch, in pixels."""
    patch = getattr(model.config, "vision_config", model.config).patch_size
    return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
