"""Idefics 2: a perceiver resamples the image into a fixed number of tokens, which correspond to no cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_tower import upper_left
from probe.tokens.layout import Grid, ImageLayout, whole_box

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("idefics2")
class Idefics2(Backbone):
    """The tower takes an image at its own aspect ratio; if the processor splits images, the four quarters come before it."""

    tiled = True
    prefix = SHARING
    no_grid_reason = "a perceiver resamples each image into latents, and each latent attends to all of the image"

    def layout(self, image: ProcessedImage) -> ImageLayout:
        views = 5 if image.image_processor.do_image_splitting else 1
        tokens = tuple(range(views * image.processor.image_seq_len))
        # Of several images the smaller ones are padded.
        alone = views == 1 and image.inputs["pixel_values"].shape[1] == 1
        return ImageLayout((), tokens, self.no_grid_reason, shown=_patches(image) if alone else None)

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        return view


def _patches(image: ProcessedImage) -> Grid:
    """The patches of the tower's input, row by row."""
    patch, (height, width) = image.model.config.vision_config.patch_size, image.input_size
    rows, cols = height // patch, width // patch
    box = upper_left(whole_box(image.size), rows * patch / height, cols * patch / width)
    return Grid.whole(rows, cols, image.size, box=box)
