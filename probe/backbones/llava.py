"""LLaVA-1.5: one view of a square picture, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from probe.backbones.base import SHARING, Backbone, register
from probe.images import normalise, resize_directly
from probe.layout import Box, Grid, ImageLayout


@register("llava", "vipllava")
class Llava(Backbone):
    """LLaVA-1.5: the tower's patches in order; the stock processor shows it the central square of the picture."""

    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        return self.square(model, image_size, processed_box(processor.image_processor, image_size))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)

    def prepare_directly(self, model: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[ImageLayout]]:
        side = model.config.vision_config.image_size
        mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
        pixels = torch.stack([normalise(resize_directly(image, (side, side)), mean, std) for image in images])
        return {"pixel_values": pixels}, [self.square(model, (image.height, image.width), None) for image in images]

    def square(self, model: Any, image_size: tuple[int, int], box: Box | None) -> ImageLayout:
        """One view; under the "full" strategy the tower's class token comes first."""
        side, extra = patches_per_side(model), int(getattr(model.config, "vision_feature_select_strategy", "default") == "full")
        return ImageLayout((Grid.whole(side, side, image_size, first=extra, box=box),), tuple(range(extra)))


def patches_per_side(model: Any) -> int:
    """Cells across the tower's square input."""
    image, patch = (
        size if isinstance(size, int) else size[0]
        for size in (model.config.vision_config.image_size, model.config.vision_config.patch_size)
    )
    return int(image // patch)


def square_patches(model: Any, view: Grid | None) -> Grid:
    """The patches of a square tower, row by row, over what the view covers."""
    side = patches_per_side(model)
    return Grid.whole(side, side, view.image_size if view else (1, 1), box=view.box if view else None)


def processed_box(image_processor: Any, image_size: tuple[int, int]) -> Box:
    """The part of a picture, in its own pixels, that a CLIP-like processor shows the tower: pad to a square, resize, crop the centre."""
    height, width = image_size
    if getattr(image_processor, "do_pad", False):
        side = max(height, width)
        x, y = (side - width) // 2, (side - height) // 2
        return (-float(x), -float(y), float(side - x), float(side - y))
    size = dict(image_processor.size)
    edge = size.get("shortest_edge") if image_processor.do_resize else None
    if edge is not None:
        scale = edge / min(height, width)
        resized = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
    elif image_processor.do_resize:
        return _whole(image_size)
    else:
        scale, resized = 1.0, (height, width)
    if not image_processor.do_center_crop:
        return _whole(image_size)
    crop = dict(image_processor.crop_size)
    top, left = (resized[0] - crop["height"]) // 2, (resized[1] - crop["width"]) // 2
    return (left / scale, top / scale, (left + crop["width"]) / scale, (top + crop["height"]) / scale)


def _whole(image_size: tuple[int, int]) -> Box:
    return (0.0, 0.0, float(image_size[1]), float(image_size[0]))
