"""Llama 4: tiles of an image that keeps its aspect ratio on a padded canvas, then the whole image as one square."""

from __future__ import annotations

import transformers
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import TiledLayout, padded_canvas
from probe.tokens.layout import Box

if transformers.__version__ == "5.24.0":
    # Its Llama4ForConditionalGeneration takes `image_outputs` of what the decoder returns, which has none, so no forward of it runs.
    MoeCausalLMOutputWithPast.image_outputs = None


@register("llama4")
class Llama4(TiledLayout):
    """The canvas is read from the token ids between the tiles; four patches are shuffled into one token."""

    class_tokens = "last"
    prefix = SHARING
    counts_cached = True  # the temperature of its attention
    projected_states = False

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        processor = image.processor
        marks = [processor.start_of_img_token, processor.end_of_img_token, processor.tile_token, processor.tile_global_token]
        start, end, next_tile, next_row = processor.tokenizer.convert_tokens_to_ids(marks)
        ids = image.ids_between(start, end)
        rows = max(ids.count(next_row), 1)
        return rows, ids.count(next_tile) // rows + 1

    def canvas_box(self, image: ProcessedImage) -> Box:
        from transformers.models.llama4.image_processing_llama4 import get_max_res_without_distortion

        rows, cols = self.canvas(image)
        tile = image.image_processor.size["height"]
        canvas = largest = (rows * tile, cols * tile)
        if not image.image_processor.resize_to_max_canvas:
            largest = (min(max(image.size[0], tile), canvas[0]), min(max(image.size[1], tile), canvas[1]))
        filled = tuple(max(edge, 1) for edge in get_max_res_without_distortion(image.size, largest))
        return padded_canvas(image.size, canvas, filled)

    def tokens_across_tile(self, image: ProcessedImage) -> int:
        processor = image.processor
        return round((image.image_processor.size["height"] // processor.patch_size) / processor.downsample_ratio**0.5)
