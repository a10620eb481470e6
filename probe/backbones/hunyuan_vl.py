"""HunYuan-VL: merged patches, a newline token after each row, and a token at each end of the image."""

from __future__ import annotations

from dataclasses import replace

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.backbones.shared.unpadded_tiles import grid_with_newlines
from probe.tokens.layout import ImageLayout


@register("hunyuan_vl")
class HunYuanVL(RowMajorPatches):
    """The tokens at the ends are there unless the processor is set to `cat_extra_token=False`."""

    alone_reason = "it numbers the images of all rows through, in the positions of their tokens"

    def layout(self, image: ProcessedImage) -> ImageLayout:
        whole = super().layout(image).grid()
        ends = int(image.processor.cat_extra_token)
        grid, newlines = grid_with_newlines(whole.intervals(0), whole.intervals(1), image.size, ends)
        outer = (0, len(grid.tokens) + len(newlines) + ends) if ends else ()
        return ImageLayout((replace(grid, name="image"),), (*outer, *newlines))
