"""IDEFICS: blocks attend across to the images that come before each token of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import CrossAttention

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from probe.inputs.videos import Video


@register("idefics")
class Idefics(CrossAttention):
    """The processor takes one list of images and texts, in their order."""

    template = "Question: {question} Answer:"
    image_limit = None

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        return {"text": [[*images, prompt]]}

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """The forward takes no text alone: a black image, which its last hidden state is free of where that is replaced."""
        size = model.config.vision_config.image_size
        pixels = torch.zeros(1, 1, 3, size, size, dtype=model.dtype, device=model.device)
        return {"pixel_values": pixels, "image_attention_mask": torch.ones(1, 1, 1, dtype=torch.long, device=model.device)}
