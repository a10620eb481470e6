"""UDOP: one encoder for text tokens and patches together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import ANSWER_ALONE, starting_answer

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from probe.inputs.videos import Video


@register("udop")
class Udop(Backbone):
    """Neither projected tokens nor vision states exist."""

    same_shape = frozenset({"input_ids"})  # words of padding take the place of the patches at their boxes

    no_grid_reason = ANSWER_ALONE.removesuffix(".")
    no_prefix_reason = "one encoder reads the image and the prompt together"
    part_paths: ClassVar[Mapping[str, str]] = {
        "attention": "layer.0.SelfAttention",
        "cross_attention": "layer.1.EncDecAttention",
        "mlp": "layer.2.DenseReluDense",
    }
    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": f"{ANSWER_ALONE} Read Hidden() of the answer instead.",
        "Vision": "one encoder reads text tokens and patches together; there is no vision tower. Read Hidden() of the answer instead.",
    }

    template = "Question answering. {question}"
    marks_images = False
    image_limit = 1

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        """Without OCR the words of the prompt are all there are, and lie nowhere on the page."""
        if processor.image_processor.apply_ocr:
            return super().processor_arguments(processor, images, videos, prompt)
        words = prompt.split()
        return {"images": list(images), "text": words, "boxes": [[0, 0, 0, 0]] * len(words)}

    def prompt_inputs(self, model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return starting_answer(model, processed)

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """The token's box on the page."""
        return {"bbox": torch.zeros(1, 1, 4, device=model.device)}
