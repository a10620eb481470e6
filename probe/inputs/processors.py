"""What stands in for a Hugging Face processor: a tokenizer by itself, of a model of words, or an image processor, of a vision encoder."""

from __future__ import annotations

from typing import TypeAlias

from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin

from probe.errors import ProcessorNeeded

Processor: TypeAlias = "ProcessorMixin | PreTrainedTokenizerBase | BaseImageProcessor"
"""What `AutoProcessor` loads: a processor, or a tokenizer or an image processor of a checkpoint that has no more."""


def tokenizer_of(processor: Processor) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor, or the tokenizer itself.

    Raises:
        ProcessorNeeded: it has none.
    """
    if isinstance(processor, PreTrainedTokenizerBase):
        return processor
    tokenizer: PreTrainedTokenizerBase | None = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ProcessorNeeded(f"The processor {type(processor).__name__} has no tokenizer. Load the model with the processor that has one.")
    return tokenizer


def image_processor_of(processor: Processor) -> BaseImageProcessor:
    """The image processor of a processor, or the image processor itself.

    Raises:
        ProcessorNeeded: it has none.
    """
    if isinstance(processor, BaseImageProcessor):
        return processor
    image_processor: BaseImageProcessor | None = getattr(processor, "image_processor", None)
    if image_processor is None:
        raise ProcessorNeeded(f"{type(processor).__name__} prepares no images. Load the model with the processor that does.")
    return image_processor
