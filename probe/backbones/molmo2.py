"""Molmo 2: the whole image as one square, then one grid over overlapping crops of which each patch is taken once; patches are pooled."""

from __future__ import annotations

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import padded_canvas
from probe.tokens.layout import Box, Grid, ImageLayout


@register("molmo2")
class Molmo2(Backbone):
    """An odd number of patches is padded to the right and below before pooling: the last cells reach past the image.

    The features are added to the image tokens' own embeddings.
    """

    tiled = True
    projected_states = False
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        from transformers.models.molmo2.image_processing_molmo2 import compute_crop_geometry

        images = image.image_processor
        edge, patch = images.size["height"], images.patch_size
        _, _, *canvas = compute_crop_geometry(*image.size, images.max_crops, images.overlap_margins, edge, patch)
        rows, cols, tile_rows, tile_cols = image.inputs["image_grids"][image.index].tolist()

        def covered(rows: int, cols: int, shown: tuple[int, int]) -> Box:
            down, across = images.pooling_size
            return padded_canvas(image.size, (rows * down * patch, cols * across * patch), shown)

        base = Grid.whole(rows, cols, image.size, name="base", box=covered(rows, cols, (edge, edge)))
        box = covered(tile_rows, tile_cols, (canvas[0], canvas[1]))
        return ImageLayout((base, Grid.whole(tile_rows, tile_cols, image.size, name="tiles", first=len(base.tokens), box=box)))
