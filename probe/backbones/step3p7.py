"""Step 3.7: tiles of a window that follows the image's aspect ratio, then the base view; strided convolutions make one token of 4 x 4 patches."""

from __future__ import annotations

from dataclasses import replace

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import centred_on_receptive_fields
from probe.backbones.shared.tiled_layout import padded_canvas, tiled_grid
from probe.tokens.layout import ImageLayout


@register("step3p7")
class Step3p7(Backbone):
    """An image that fits the base view and is not elongated has no tiles; a very thin one is padded to a square."""

    tiled = True
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        images, (height, width), longest = image.image_processor, image.size, max(image.size)
        edge, tile, stride = images.size["height"], images.patch_size, images.downsampler_stride
        _, _, window, cols, rows, padded = images._plan_patches(width, height, edge, tile)
        shown = padded_canvas(image.size, (longest, longest), image.size) if padded else None
        cell = images.vision_patch_size * stride
        base = square_grid(edge // cell, image.size, box=shown)
        if not window:
            return ImageLayout((centred_on_receptive_fields(base, stride),))
        tiles = tiled_grid(rows, cols, tile // cell, image.size, canvas=shown)
        first = len(tiles.tokens)
        base = replace(base, name="base", tokens=tuple(first + token for token in base.tokens))
        return ImageLayout((centred_on_receptive_fields(tiles, stride), centred_on_receptive_fields(base, stride)))
