"""InstructBLIP: BLIP-2 with a Q-Former that also reads the question, so the image tokens depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.backbones.blip_2 import Blip2
from probe.backbones.registry import register
from probe.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ProcessorMixin

    from probe.inputs.videos import Video

FRAMES = 4
"""The frames of a video, for each of which its processor writes its query tokens."""


@register("instructblip")
class InstructBlip(Blip2):
    """The prompt is the question alone."""

    template = "{question}"
    no_prefix_reason = "its Q-Former reads the question, so that image tokens depend on it"


@register("instructblipvideo")
class InstructBlipVideo(InstructBlip):
    """The query tokens of four frames, one frame after the other."""

    image_limit = 0

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        """The processor calls its frames images, and writes the query tokens of four."""
        counts = [len(video.frames) for video in videos]
        if counts != [FRAMES]:
            raise ImageError(
                f"instructblipvideo takes one video of {FRAMES} frames, given were videos of {counts} frames. Choose {FRAMES}."
            )
        return {"images": [videos[0].frames], "text": prompt}
