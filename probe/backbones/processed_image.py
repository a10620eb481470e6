"""One image of an encoded prompt, as `Backbone.layout` gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from probe.inputs.processors import Processor, image_processor_of

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


@dataclass(frozen=True, eq=False)
class ProcessedImage:
    """An image, and what the checkpoint's own processor returned for the prompt that holds it.

    Attributes:
        model, processor: the Hugging Face objects.
        size: (height, width) of the original image, in pixels.
        inputs: the processor's output for the whole prompt, all its images included.
        index: which of the prompt's images this is, from 0.

    Example:
        >>> image = probe.backbones.ProcessedImage(None, None, (480, 640), {"pixel_values": torch.zeros(1, 3, 336, 336)}, index=0)
        >>> image.input_size
        (336, 336)
    """

    model: PreTrainedModel
    processor: Processor
    size: tuple[int, int]
    inputs: Mapping[str, Tensor]
    index: int

    @property
    def image_processor(self) -> BaseImageProcessor:
        """The part of the processor that prepares images, or all of it, of a vision encoder."""
        return image_processor_of(self.processor)

    @property
    def tokens_per_side(self) -> int:
        """Image tokens across one square of them, from the number of tokens that the processor writes for each square."""
        names = ("image_seq_length", "image_seq_len", "num_image_tokens")  # families differ
        return round(next(getattr(self.processor, name) for name in names if hasattr(self.processor, name)) ** 0.5)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the vision tower gets: the last two axes of `pixel_values` (Video-LLaVA: `pixel_values_images`)."""
        pixels = self.inputs["pixel_values" if "pixel_values" in self.inputs else "pixel_values_images"]
        height, width = pixels.shape[-2:]
        return int(height), int(width)

    def ids_between(self, start: int, end: int) -> list[int]:
        """The token ids of this image, from its start token up to its end token (left out).

        Args:
            start, end: the ids of the tokens that enclose each image of the prompt.
        """
        ids = self.inputs["input_ids"][0].tolist()
        first, last = ([i for i, token in enumerate(ids) if token == mark][self.index] for mark in (start, end))
        return ids[first:last]
