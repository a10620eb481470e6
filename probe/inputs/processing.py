"""A checkpoint's processor at work: its call, and what it puts into a prompt in place of the tokens that stand for images and videos."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe.errors import ImageError, PackageNeeded, ProbeError, TemplateError
from probe.inputs.processors import Processor

_METHOD = "get_text_with_replacements"


@dataclass(frozen=True)
class Replacement:
    """What one image or video became in the prompt.

    Attributes:
        kind: "image", "video" or "audio".
        text: what the processor put in, before it is tokenised.
    """

    kind: str
    text: str


def with_replacements(processor: Processor) -> tuple[Processor, list[Replacement]]:
    """A copy of the processor, and what its next call puts into the prompt, in the prompt's order; the given processor stays as it is.

    The list stays empty where the processor lays out its prompts in another way than transformers' own.
    """
    found: list[Replacement] = []
    if not hasattr(processor, _METHOD):
        return processor, found
    copied = copy.copy(processor)
    replace = getattr(copied, _METHOD)

    def keep(*args: object, **options: object) -> tuple[list[str], list[list[Mapping[str, str]]]]:
        texts, offsets = replace(*args, **options)
        found.extend(Replacement(one["type"], one["replacement"]) for prompt in offsets for one in prompt)
        return texts, offsets

    setattr(copied, _METHOD, keep)
    return copied, found


def processed_by(processor: Processor, arguments: Mapping[str, object], family: str) -> dict[str, Tensor]:
    """What a processor returns for one prompt and its images.

    Raises:
        PackageNeeded: it needs a package that is not installed.
        ImageError: there are images, and a tokenizer by itself takes none.
        TemplateError: it refuses the prompt or the images, or returns several prompts for it.
    """
    name = type(processor).__name__
    arguments = {key: value for key, value in arguments.items() if value is not None}  # a tokenizer has no such argument as images=
    if "images" in arguments and isinstance(processor, PreTrainedTokenizerBase):
        raise ImageError("Images were given with a tokenizer, which prepares none. Load the model with its processor.")
    try:
        processed = dict(processor(**arguments))
    except ProbeError:
        raise
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise PackageNeeded(f"{name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # each family's processor has checks of its own
        given = ", ".join(f"{key}=" for key in arguments)
        raise TemplateError(
            f"{name} cannot encode this for {family} ({type(error).__name__}: {error}). It was called with {given}: check that the prompt and "
            "the images are such as the family takes, or run() what the processor returns for arguments of your own."
        ) from error
    rows = len(processed["input_ids"]) if "input_ids" in processed else 1
    if rows != 1:
        raise TemplateError(
            f"{name} wrote {rows} prompts of its own in place of the one given, and an encoding is of one. Call the processor yourself, and "
            "run() what it returns."
        )
    processed.pop("video_metadata", None)  # asked for by processors that write the frames' times; no model takes it
    return processed
