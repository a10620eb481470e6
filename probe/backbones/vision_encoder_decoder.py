"""Vision encoder-decoders (Donut, TrOCR, Nougat): the prompt begins the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import EncoderDecoder, starting_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("vision-encoder-decoder")
class VisionEncoderDecoder(EncoderDecoder):
    """Processors return the prompt as the ids, or the labels, of a text; the decoder takes it."""

    template = "{question}"
    marks_images = False
    image_limit = 1

    def prompt_inputs(self, model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: value for name, value in processed.items() if name not in ("input_ids", "attention_mask", "labels")}
        prompt = processed.get("input_ids", processed.get("labels"))
        if prompt is None or not prompt.shape[1]:
            return starting_answer(model, inputs)
        inputs["decoder_input_ids"] = prompt
        # Donut's prompts begin with a start token of their own, and Hugging Face's generate() puts no other before it.
        return inputs if "donut" in model.config.encoder.model_type else starting_answer(model, inputs)
