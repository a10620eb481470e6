"""Kimi K2.5: an image at its own aspect ratio, padded to the right and below to whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import RowMajorPatches
from probe.backbones.shared.tiled_layout import padded_canvas

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from probe.tokens.layout import Box


@register("kimi_k25")
class KimiK25(RowMajorPatches):
    """A cell of padding is a token as well: its box is beside the image."""

    def covered_box(self, image: ProcessedImage) -> Box:
        from transformers.models.kimi_k25.image_processing_kimi_k25 import navit_resize

        images, (height, width) = image.image_processor, image.size
        filled, canvas = navit_resize(
            height=height,
            width=width,
            patch_size=images.patch_size,
            merge_kernel_size=images.merge_size,
            max_patches=images.max_patches,
            max_size_per_side=images.size["max_height"],
        )
        return padded_canvas(image.size, canvas, filled)

    def merge_size(self, model: PreTrainedModel) -> int:
        return int(model.config.vision_config.merge_kernel_size[0])
