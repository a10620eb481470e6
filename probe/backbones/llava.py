"""LLaVA-1.5 and VipLLaVA: one view of a square image, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import processed_box
from probe.backbones.shared.single_view import single_view
from probe.backbones.shared.square_tower import SquareTower, tower_size
from probe.inputs.images import normalise, padded_to_square, resize_directly
from probe.tokens.layout import ImageLayout, whole_box

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, ProcessorMixin


@register("llava", "vipllava")
class Llava(SquareTower):
    """The tower's patches in order. The stock processor shows it the central square of the image."""

    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        return single_view(image.model, image.size, image.input_size, processed_box(image.image_processor, image.size))

    def prepare_directly(
        self, model: PreTrainedModel, processor: ProcessorMixin, images: Sequence[Image.Image], *, padded: bool = False
    ) -> tuple[dict[str, Tensor], list[ImageLayout]]:
        side, _ = tower_size(model)
        mean, std = _normalisation(processor.image_processor)
        shown = [padded_to_square(image, mean) if padded else (image, whole_box((image.height, image.width))) for image in images]
        pixels = normalise([resize_directly(image, (side, side)) for image, _ in shown], mean, std)
        sizes = [(image.height, image.width) for image in images]
        return {"pixel_values": pixels}, [single_view(model, size, (side, side), box) for size, (_, box) in zip(sizes, shown, strict=True)]


def _normalisation(image_processor: BaseImageProcessor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, with which an image processor normalises."""
    if not getattr(image_processor, "do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (
        (float(value),) * 3 if isinstance(value, (int, float)) else tuple(value)
        for value in (image_processor.image_mean, image_processor.image_std)
    )
    return mean, std
