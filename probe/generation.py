"""Options of generation: greedy unless told otherwise, Hugging Face's own names, nothing passed over in silence."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

from transformers import GenerationConfig

from probe.errors import ProbeError

MAX_NEW_TOKENS = 64


def generation_options(
    options: dict[str, Any], pad_token_id: int | None, image_token_id: int, settings_of_model: GenerationConfig
) -> dict[str, Any]:
    """What `model.generate` is given beside its inputs.

    Args:
        options: the user's. A `generation_config` is taken as it is, with the other options over it.
        settings_of_model: the checkpoint's own, which hold where the options say nothing.
        image_token_id: never generated: Hugging Face would look for another picture behind it.

    Raises:
        ProbeError: several sequences were asked for, or scores and states beside the answer; an answer is one sequence.
    """
    own = dict(options)
    config = own.pop("generation_config", None)
    forbidden = [*(own.pop("suppress_tokens", None) or (config or settings_of_model).suppress_tokens or ()), image_token_id]
    if config is not None:
        made: GenerationConfig = copy.deepcopy(config)
        beside = made.update(**own, suppress_tokens=forbidden)  # what is no setting, such as a logits_processor, goes to generate itself
        if made.pad_token_id is None:
            made.pad_token_id = pad_token_id
        settings: dict[str, Any] = {"generation_config": made, **beside}
        asked = {name: getattr(made, name, None) for name in (*_READ_INSTEAD, "num_return_sequences")}
    else:
        settings = {"do_sample": False, "pad_token_id": pad_token_id, "suppress_tokens": forbidden} | own
        if "max_length" not in own:
            settings = {"max_new_tokens": MAX_NEW_TOKENS} | settings
        if not settings["do_sample"]:
            # A checkpoint's sampling defaults mean nothing to greedy search, and make transformers warn.
            settings = {"temperature": None, "top_p": None, "top_k": None} | settings
        asked = own
    for name, instead in _READ_INSTEAD.items():
        if asked.get(name):
            raise ProbeError(f"{name}={asked[name]}: generate() returns an Answer, which has none of these. {instead}")
    several = asked.get("num_return_sequences") or 1
    if several > 1:
        raise ProbeError(f"num_return_sequences={several}: an answer is one sequence. Call generate() several times, with do_sample=True.")
    return settings


_READ_LOGITS = "Leave it out, and read them of the answer with run(answer, [probe.Logits(at='answer')])."
_READ_INSTEAD = MappingProxyType(
    {
        "output_scores": _READ_LOGITS,
        "output_logits": _READ_LOGITS,
        "output_attentions": "Leave it out, and read them of the answer with run(answer, [probe.Attention('all', query='answer')]).",
        "output_hidden_states": "Leave it out, and read them of the answer with run(answer, [probe.Hidden('all', at='answer')]).",
        "return_dict_in_generate": "Leave it out, and read the answer with run().",
    }
)
"""Options of Hugging Face's generate() for what it returns beside the ids, and what to do instead."""


_UNSUPPORTED = MappingProxyType(
    {
        "num_beams": 1,
        "min_length": 0,
        "min_new_tokens": 0,
        "encoder_repetition_penalty": 1,
        "encoder_no_repeat_ngram_size": 0,
        "guidance_scale": 1,
        "renormalize_logits": False,
        "remove_invalid_values": False,
        **dict.fromkeys(
            (
                "bad_words_ids",
                "sequence_bias",
                "forced_bos_token_id",
                "forced_eos_token_id",
                "begin_suppress_tokens",
                "exponential_decay_length_penalty",
                "penalty_alpha",
                "dola_layers",
                "prompt_lookup_num_tokens",
                "stop_strings",
                "watermarking_config",
            )
        ),
    }
)
"""What a checkpoint's generation settings may hold that `probe.sessions.greedy` does not follow, and the value with which it does nothing."""


def unsupported_generation_settings(settings: GenerationConfig) -> tuple[str, ...]:
    """The settings that do something which `probe.sessions.greedy.Greedy` does not follow: each question has to be asked alone."""
    return tuple(name for name, idle in _UNSUPPORTED.items() if getattr(settings, name, None) not in (None, idle))
