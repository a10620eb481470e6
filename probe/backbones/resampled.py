"""Images resampled into a fixed number of tokens that lie nowhere on them: Idefics 2, BLIP-2 and InstructBLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.tiles import tiled_layout
from probe.backbones.tower import patches_per_side, seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("idefics2")
class Idefics2(Backbone):
    """The tower sees a picture at its own aspect ratio and, where the processor splits pictures, its four quarters before it."""

    tiled = True
    no_grid_reason = "a perceiver resamples each picture into latents, and each latent attends to all of the picture"

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        pictures = 5 if processor.image_processor.do_image_splitting else 1
        shown = None
        if pictures == 1 and inputs["pixel_values"].shape[1] == 1:  # of several pictures the smaller ones are padded
            patch = model.config.vision_config.patch_size
            height, width = inputs["pixel_values"].shape[-2:]
            rows, cols = height // patch, width // patch
            box = (0.0, 0.0, cols * patch / width * image_size[1], rows * patch / height * image_size[0])
            shown = Grid.whole(rows, cols, image_size, box=box)
        return ImageLayout((), tuple(range(pictures * processor.image_seq_len)), self.no_grid_reason, shown)

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        return view


@register("blip-2")
class Blip2(Backbone):
    """The whole picture as one square; its tokens come before everything else of the prompt."""

    no_grid_reason = "a Q-Former resamples the picture into query tokens, and each query attends to all of the picture"
    template = "Question: {question} Answer:"
    marks_images = False

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side = patches_per_side(model)
        (shown,) = tiled_layout(1, 1, side, image_size, seen=seen_share(model, inputs, side)).grids
        return ImageLayout((), tuple(range(processor.num_query_tokens)), self.no_grid_reason, shown)

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)


@register("instructblip")
class InstructBlip(Blip2):
    """The Q-Former reads the question beside the picture, so that the image tokens depend on it."""

    template = "{question}"
