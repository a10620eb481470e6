"""Unlimited-OCR: tiles over the stretched image, then the image in the middle of a padded square, a newline token after each row of both."""

from __future__ import annotations

from dataclasses import replace

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.cropping import fitted_square
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import centred_on_receptive_fields
from probe.backbones.shared.unpadded_tiles import grid_with_newlines
from probe.tokens.layout import Grid, ImageLayout


@register("unlimited_ocr")
class UnlimitedOcr(Backbone):
    """SAM's tower ends with two strided convolutions. A separator follows the last row."""

    tiled = True

    def layout(self, image: ProcessedImage) -> ImageLayout:
        strides, cell = image.processor.downsample_ratio, image.processor.patch_size * image.processor.downsample_ratio
        images, (edge, _) = image.image_processor, image.input_size
        stretched = not images.crop_to_patches and edge <= images.maximum_pad_value
        views = [square_grid(edge // cell, image.size, box=None if stretched else fitted_square(image.size, edge))]
        if image.inputs["num_local_patches"][image.index]:
            (cols, rows), side = image.inputs["patches_grid"][image.index], images.tile_size // cell
            views = [Grid.whole(rows * side, cols * side, image.size, name="tiles"), replace(views[0], name="base")]
        grids: list[Grid] = []
        separators: list[int] = []
        for view in views:
            centred = centred_on_receptive_fields(view, strides)
            first = sum(len(grid.tokens) for grid in grids) + len(separators)
            grid, newlines = grid_with_newlines(centred.intervals(0), centred.intervals(1), image.size, first)
            grids, separators = [*grids, replace(grid, name=view.name)], [*separators, *newlines]
        return ImageLayout(tuple(grids), (*separators, separators[-1] + 1))
