"""MiniCPM-V 4.6 and MiniCPM-OCR: the whole image at its own aspect ratio, then its slices, which are alike and no squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import tiled_grid
from probe.tokens.layout import Grid, ImageLayout


@register("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
class MiniCPMV(Backbone):
    """Squares of patches are merged twice, "16x", or once, "4x". Slices that are resized one by one, "adaptive", have no common grid."""

    tiled = True
    prefix = SHARING
    joined_along: ClassVar[Mapping[str, int]] = {"pixel_values": 3}  # patches side by side, those of all images in one row

    def layout(self, image: ProcessedImage) -> ImageLayout | None:
        images, upsize = image.image_processor, getattr(image.image_processor, "small_image_upsize", "always")
        if upsize == "adaptive":
            return None
        options = {name: getattr(images, name) for name in ("scale_resolution", "patch_size", "downsample_mode")}
        cell = images.patch_size * (2 if images.downsample_mode == "4x" else 4)
        slices = images.get_sliced_grid(image.size, images.max_slice_nums, images.scale_resolution) if images.slice_mode else None
        alone = slices is None
        height, width = images.find_best_resize(image.size, allow_upscale=alone and upsize == "always", **options)
        base = Grid.whole(height // cell, width // cell, image.size, name="image" if alone else "base")
        if slices is None:
            return ImageLayout((base,))
        rows, cols = slices
        height, width = images.get_refine_size(image.size, slices, allow_upscale=True, **options)
        down, across = height // rows // cell, width // cols // cell
        return ImageLayout((base, tiled_grid(rows, cols, down, image.size, first=len(base.tokens), across=across)))
