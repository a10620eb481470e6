"""GLM-5 Next: hyper-connections, with an axis of residual streams between the tokens and the features."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import ClassVar

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import MergedPatches
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.backbones.shared.tiled_layout import padded_canvas
from probe.tokens.layout import Box


@register("glm5_next")
class Glm5Next(ResidualStreams, MergedPatches):
    """The streams are the last axis but one. The image is padded to the right and below to whole cells."""

    alone_reason = "which keys its attention chooses depends on the padding"
    axes = ("batch", "token", "stream", "feature")
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mlp": "mlp"}

    video_layout = Backbone.video_layout  # frames are padded to whole cells as images are, by another budget

    def covered_box(self, image: ProcessedImage) -> Box:
        images, (height, width) = image.image_processor, image.size
        _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
        canvas = (rows * images.patch_size, cols * images.patch_size)
        scale = min(canvas[0] / height, canvas[1] / width)
        cell = images.patch_size * images.merge_size * images.patch_expand_factor
        if height * width >= cell**2 * images.min_image_tokens:  # the processor enlarges smaller images alone
            scale = min(scale, 1.0)
        filled = (max(1, min(canvas[0], floor(height * scale))), max(1, min(canvas[1], floor(width * scale))))
        return padded_canvas(image.size, canvas, filled)
