"""InstructBLIP: BLIP-2 with a Q-Former that also reads the question, so the image tokens depend on it."""

from __future__ import annotations

from probe.backbones.blip_2 import Blip2
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.tokens.layout import ImageLayout


@register("instructblip")
class InstructBlip(Blip2):
    """The prompt is the question alone."""

    template = "{question}"
    no_prefix_reason = "its Q-Former reads the question, so that image tokens depend on it"


@register("instructblipvideo")
class InstructBlipVideo(InstructBlip):
    """The query tokens of each frame, one frame after the other."""

    def layout(self, image: ProcessedImage) -> ImageLayout:
        frames = image.inputs["pixel_values"].shape[1]
        return ImageLayout((), tuple(range(frames * image.processor.num_query_tokens)), self.no_grid_reason)
