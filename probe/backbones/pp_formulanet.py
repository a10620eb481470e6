"""PP-FormulaNet: the encoder reads an image alone, and the answer is the formula in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import EncoderDecoder
from probe.errors import TemplateError

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from probe.inputs.videos import Video


@register("pp_formulanet")
class PPFormulaNet(EncoderDecoder):
    """No prompt."""

    template = "{question}"
    marks_images = False
    image_limit = 1

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        if prompt:
            raise TemplateError(f"pp_formulanet reads an image and no prompt: {prompt!r:.80}. Pass an empty text: encode(image, '').")
        return {"images": list(images)}

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """What the encoder would return for an image."""
        states = torch.zeros(1, 1, model.config.get_text_config(decoder=True).hidden_size, dtype=model.dtype, device=model.device)
        return {"encoder_outputs": [states, states], "input_ids": None}
