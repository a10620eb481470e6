"""InternVL, Aya Vision, Command A Vision: tiles after the picture's aspect ratio, whose patches are shuffled into fewer, wider tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from transformers.models.cohere2_vision import image_processing_cohere2_vision as cohere2_vision
from transformers.models.got_ocr2 import image_processing_got_ocr2 as got_ocr2

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.tiles import tiled_layout
from probe.backbones.tower import seen_share, square_patches
from probe.tokens.layout import Grid, ImageLayout


@register("internvl")
class InternVL(Backbone):
    """Tiles, then the base view; the tokens of a tile stay row by row."""

    tiled = True
    prefix = SHARING
    canvas: ClassVar[Callable[..., tuple[int, int]]] = staticmethod(got_ocr2.get_optimal_tiled_canvas)

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        side = self.side(processor)
        return tiled_layout(*self.cut(processor, image_size), side, image_size, seen=seen_share(model, inputs, side))

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        return square_patches(model, view)

    def cut(self, processor: Any, image_size: tuple[int, int]) -> tuple[int, int]:
        """How many tiles the picture is cut into, down and across."""
        # Whether tiles are cut at all is merged from the defaults of both processors, which only the processor itself does.
        (tiles,) = processor._get_num_multimodal_tokens(image_sizes=[image_size])["num_image_patches"]
        if tiles == 1:
            return 1, 1
        images = processor.image_processor
        cols, rows = self.canvas(image_size, (images.size["height"], images.size["width"]), images.min_patches, images.max_patches)
        return rows, cols

    def side(self, processor: Any) -> int:
        """Image tokens across one tile."""
        return round(processor.image_seq_length**0.5)


@register("aya_vision")
class AyaVision(InternVL):
    """With a token between the tiles that numbers them."""

    def side(self, processor: Any) -> int:
        return int(processor.img_size // processor.patch_size)


@register("cohere2_vision")
class Cohere2Vision(InternVL):
    """With a line break behind each tile, and a canvas that is stretched least."""

    canvas: ClassVar[Callable[..., tuple[int, int]]] = staticmethod(cohere2_vision.get_optimal_tiled_canvas)

    def side(self, processor: Any) -> int:
        return int(processor.patch_size)
