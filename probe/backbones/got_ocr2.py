"""GOT-OCR 2: the whole image as one square, or InternVL's tiles; two strided convolutions make one token of 4 x 4 patches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from probe.backbones.internvl import InternVL
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.square_tower import centred_on_receptive_fields, patches_per_side
from probe.tokens.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("got_ocr2")
class GotOcr2(InternVL):
    """Tiles are off unless the processor is set to `crop_to_patches`."""

    template = (
        "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
        "<|im_start|>user\n<img><image></img>\n{question}<|im_end|><|im_start|>assistant\n"
    )

    def layout(self, image: ProcessedImage) -> ImageLayout:
        layout = super().layout(image)
        return replace(layout, grids=tuple(centred_on_receptive_fields(grid, 4) for grid in layout.grids))

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid:
        side = patches_per_side(model)
        return Grid.whole(side, side, view.image_size if view else (1, 1))  # not moved: the convolutions come after the tower

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        return patches_per_side(image.model) // 4

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        processor = image.processor
        merged = processor._merge_kwargs(processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs)
        options = merged["images_kwargs"]
        return self.best_canvas(image, options["min_patches"], options["max_patches"]) if options["crop_to_patches"] else (1, 1)
