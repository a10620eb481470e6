"""Options of generation: greedy unless told otherwise, Hugging Face's own names, nothing passed over in silence."""

from __future__ import annotations

import copy
from typing import Any

from transformers import GenerationConfig

from probe.errors import ProbeError

MAX_NEW_TOKENS = 64


def generation_options(options: dict[str, Any], pad_token_id: int | None, image_token_id: int) -> dict[str, Any]:
    """What `model.generate` is given beside its inputs.

    Args:
        options: the user's. A `generation_config` is taken as it is, with the other options over it.
        image_token_id: never generated: Hugging Face would look for another picture behind it.

    Raises:
        ProbeError: several sequences were asked for; an answer is one.
    """
    own = dict(options)
    config = own.pop("generation_config", None)
    forbidden = [*(own.pop("suppress_tokens", None) or getattr(config, "suppress_tokens", None) or ()), image_token_id]
    if config is not None:
        made: GenerationConfig = copy.deepcopy(config)
        made.update(**own, suppress_tokens=forbidden)
        if made.pad_token_id is None:
            made.pad_token_id = pad_token_id
        settings: dict[str, Any] = {"generation_config": made}
        several = made.num_return_sequences
    else:
        settings = {"do_sample": False, "pad_token_id": pad_token_id, "suppress_tokens": forbidden} | own
        if "max_length" not in own:
            settings = {"max_new_tokens": MAX_NEW_TOKENS} | settings
        if not settings["do_sample"]:
            # A checkpoint's sampling defaults mean nothing to greedy search, and make transformers warn.
            settings = {"temperature": None, "top_p": None, "top_k": None} | settings
        several = own.get("num_return_sequences")
    if (several or 1) > 1:
        raise ProbeError(f"num_return_sequences={several}: an answer is one sequence. Call generate() several times, with do_sample=True.")
    return settings


_UNFOLLOWED = (
    "num_beams",
    "min_length",
    "min_new_tokens",
    "bad_words_ids",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "begin_suppress_tokens",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "penalty_alpha",
    "dola_layers",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "stop_strings",
    "watermarking_config",
)
"""What a checkpoint's generation settings may hold that `probe.decoding` does not follow."""


def unfollowed(settings: GenerationConfig) -> tuple[str, ...]:
    """The settings, away from their defaults, that `probe.decoding.Greedy` does not follow: each question has to be asked alone."""
    plain = GenerationConfig()
    idle = (None, False, 0, 1)
    return tuple(
        name for name in _UNFOLLOWED if (value := getattr(settings, name, None)) not in idle and value != getattr(plain, name, None)
    )
