"""Generation with Hugging Face's own options: greedy by default, and no option is ignored silently."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from probe.encoder import Encoder
from probe.errors import NotFinite, ProbeError
from probe.inputs.encoding import Answer, Encoding
from probe.runtime import Batch, Runtime
from probe.tracing.finite import FiniteCheck

MAX_NEW_TOKENS = 64


def generate(runtime: Runtime, encoder: Encoder, encoding: Encoding, *, begin: str | None = None, **options: object) -> Answer:
    """The model's answer by Hugging Face's `generate`: see `Probe.generate`."""
    start = encoding.with_answer(begin) if begin else encoding
    if isinstance(start, Answer) and "end" in start.tokens.spans:
        return start
    known = start.inputs["input_ids"].shape[1]
    model = runtime.model
    settings = generation_options(options, encoder.pad_token_id(), runtime.image_token_id, model.generation_config)
    finite = FiniteLogits()
    processors: Any = settings.get("logits_processor") or ()
    settings["logits_processor"] = LogitsProcessorList([*processors, finite])
    with runtime.engine.lock, torch.no_grad():
        inputs = runtime.backbone.forward_inputs(model, start.inputs)
        output = model.generate(**inputs, **settings)
    if finite.check.failed():
        raise runtime.not_finite_with_layer(NotFinite.of_next_logits(), [Batch.of(start)])
    ids = getattr(output, "sequences", output)[0].tolist()
    generated = ids[known:] if "input_ids" in inputs else ids
    return encoding.with_answer_ids((*start.tokens.ids[encoding.prompt_length :], *generated))


class FiniteLogits(LogitsProcessor):
    """Leaves the logits of each step as they are, and checks that the largest is finite (others may be suppressed)."""

    def __init__(self) -> None:
        self.check = FiniteCheck[None]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.check.add(None, scores.amax(-1))
        return scores


def generation_options(
    options: Mapping[str, object], pad_token_id: int | None, image_token_id: int, checkpoint: GenerationConfig
) -> dict[str, object]:
    """The keyword arguments of `model.generate` besides its inputs.

    Args:
        options: the user's. A `generation_config` is taken as it is, with the other options over it.
        checkpoint: the checkpoint's own settings, which hold where the options say nothing.
        image_token_id: never generated: Hugging Face would look for another image.

    Raises:
        ProbeError: `generation_config` is no GenerationConfig, several sequences were asked for,
            or scores and states along with the answer; an answer is one sequence.
    """
    own = dict(options)
    config = own.pop("generation_config", None)
    if config is not None and not isinstance(config, GenerationConfig):
        raise ProbeError(f"generation_config= is a {type(config).__name__}. Pass a transformers.GenerationConfig, or its settings by name.")
    suppressed: Any = own.pop("suppress_tokens", None) or getattr(config or checkpoint, "suppress_tokens", None) or ()
    own["suppress_tokens"] = [*suppressed, image_token_id]
    if config is not None:
        settings, effective = _over_config(config, own, pad_token_id)
    else:
        settings = _greedy_by_default(own, pad_token_id)
        effective = own
    _refuse_other_outputs(effective)
    return settings


def _over_config(
    config: GenerationConfig, options: Mapping[str, object], pad_token_id: int | None
) -> tuple[dict[str, object], Mapping[str, object]]:
    """The user's configuration with options over it; and the values of all settings that result."""
    merged = copy.deepcopy(config)
    arguments = merged.update(**options)  # what is no setting, such as a logits_processor, is an argument of generate() itself
    if merged.pad_token_id is None:
        merged.pad_token_id = pad_token_id
    return {"generation_config": merged, **arguments}, vars(merged)


def _greedy_by_default(options: Mapping[str, object], pad_token_id: int | None) -> dict[str, object]:
    settings: dict[str, object] = {"do_sample": False, "pad_token_id": pad_token_id} | dict(options)
    if "max_length" not in options:
        settings = {"max_new_tokens": MAX_NEW_TOKENS} | settings
    if not settings["do_sample"]:
        # A checkpoint's sampling defaults mean nothing to greedy search, and make transformers warn.
        settings = {"temperature": None, "top_p": None, "top_k": None} | settings
    return settings


def _refuse_other_outputs(settings: Mapping[str, object]) -> None:
    """Refuse settings under which Hugging Face returns more than one sequence of ids."""
    for name, instead in _READ_INSTEAD.items():
        if settings.get(name):
            raise ProbeError(f"{name}={settings[name]}: generate() returns an Answer, which has none of these. {instead}")
    several = settings.get("num_return_sequences") or 1
    if isinstance(several, int) and several > 1:
        raise ProbeError(f"num_return_sequences={several}: an answer is one sequence. Call generate() several times, with do_sample=True.")


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
