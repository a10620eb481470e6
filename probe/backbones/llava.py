"""LLaVA-1.5: one view of a square picture, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.tower import share_of, square_patches, tokens_beside_patches, tower_size, upper_left
from probe.inputs.images import normalise, resize_directly
from probe.tokens.layout import Box, Grid, ImageLayout


@register("llava", "vipllava")
class Llava(Backbone):
    """LLaVA-1.5: the tower's patches in order; the stock processor shows it the central square of the picture."""

    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        pixels = (int(edge) for edge in inputs["pixel_values"].shape[-2:])
        return one_view(model, image_size, tuple(pixels), processed_box(processor.image_processor, image_size))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)

    def prepare_directly(self, model: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[ImageLayout]]:
        side, _ = tower_size(model)
        mean, std = normalisation(processor.image_processor)
        pixels = torch.stack([normalise(resize_directly(image, (side, side)), mean, std) for image in images])
        return {"pixel_values": pixels}, [one_view(model, (image.height, image.width), (side, side), None) for image in images]


def one_view(model: Any, image_size: tuple[int, int], pixels: tuple[int, ...], box: Box | None) -> ImageLayout:
    """The layout of one view of a picture: the tower's patches, row by row, behind its class token where that is kept.

    Args:
        image_size: (height, width) of the original picture.
        pixels: (height, width) of what the tower gets.
        box: the part of the picture that the tower gets; None: all of it.
    """
    _, patch = tower_size(model)
    rows, cols = (edge // patch for edge in pixels)
    down, across = (share_of(edge, patch, count) for edge, count in zip(pixels, (rows, cols), strict=True))
    box = upper_left(box or (0.0, 0.0, float(image_size[1]), float(image_size[0])), down, across)
    left_out = int(getattr(model.config, "vision_feature_select_strategy", "default") == "default")
    extra = tokens_beside_patches(model) - left_out
    if extra >= 0:
        return ImageLayout((Grid.whole(rows, cols, image_size, first=extra, box=box),), tuple(range(extra)))
    # "default" drops the tower's first token, which is the first patch of a tower without a class token. What is left of its row is no
    # row of a grid.
    whole = Grid.whole(rows, cols, image_size, box=box)
    below = (box[0], whole.cell_box(1, 0)[1], box[2], box[3])
    return ImageLayout((Grid.whole(rows - 1, cols, image_size, first=cols - 1, box=below),), tuple(range(cols - 1)), shown=whole)


def normalisation(image_processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel by which an image processor normalises."""
    if not getattr(image_processor, "do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (
        (float(value),) * 3 if isinstance(value, (int, float)) else tuple(value)
        for value in (image_processor.image_mean, image_processor.image_std)
    )
    return mean, std


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
