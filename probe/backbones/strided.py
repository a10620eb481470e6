"""Image tokens behind strided convolutions, which look at each cell from its upper left: GOT-OCR 2 and FastVLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from probe.backbones.base import Backbone, register
from probe.backbones.internvl import InternVL
from probe.backbones.llava import processed_box
from probe.backbones.tower import patches_per_side
from probe.tokens.layout import Grid, ImageLayout


@register("got_ocr2")
class GotOcr2(InternVL):
    """The whole picture as one square unless the processor cuts tiles; two convolutions make one token of 4 x 4 patches."""

    template = (
        "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
        "<|im_start|>user\n<img><image></img>\n{question}<|im_end|><|im_start|>assistant\n"
    )

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        layout = super().layout(model, processor, image_size, inputs, index)
        return replace(layout, grids=tuple(leaning(grid, 4) for grid in layout.grids)) if layout else None

    def vision_grid(self, model: Any, view: Grid | None) -> Grid:
        side = patches_per_side(model)
        return Grid.whole(side, side, view.image_size if view else (1, 1))  # not leaning: the convolutions come behind the tower

    def cut(self, processor: Any, image_size: tuple[int, int]) -> tuple[int, int]:
        options = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs)["images_kwargs"]
        if not options["crop_to_patches"]:
            return 1, 1
        size = processor.image_processor.size
        cols, rows = self.canvas(image_size, (size["height"], size["width"]), options["min_patches"], options["max_patches"])
        return rows, cols

    def side(self, processor: Any) -> int:
        return round(processor.num_image_tokens**0.5)


@register("fast_vlm")
class FastVlm(Backbone):
    """The central square of the picture, or what the processor shows, seen by a hybrid tower of convolutions."""

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        rows, cols = (int(edge) // processor.patch_size for edge in inputs["pixel_values"].shape[-2:])
        whole = Grid.whole(rows, cols, image_size, box=processed_box(processor.image_processor, image_size))
        return ImageLayout((leaning(whole, processor.patch_size),))


def leaning(grid: Grid, stride: int) -> Grid:
    """The grid over what its cells' receptive fields are centred on: kernels are odd and padding even, so a field's centre is the first of the
    `stride` units of a cell, not their middle."""
    lean = (stride - 1) / (2 * stride)
    x0, y0, x1, y1 = grid.box
    right, down = (x1 - x0) / grid.cols * lean, (y1 - y0) / grid.rows * lean
    return replace(grid, box=(x0 - right, y0 - down, x1 - right, y1 - down))
