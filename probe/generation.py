"""Generation with Hugging Face's own options: greedy by default, and no option is ignored silently."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeGuard

import torch
from transformers import GenerationConfig

from probe.encoder import Encoder
from probe.errors import NotFinite, ProbeError
from probe.generated import Ending, NewTokens, ends_of_submodels, ids_of, new_tokens
from probe.inputs.encoding import Answer, Encoding
from probe.runtime import Batch, Runtime
from probe.tokens.integers import as_int
from probe.tracing.edits import Edit

MAX_NEW_TOKENS = 64


def generate(
    runtime: Runtime,
    encoder: Encoder,
    encoding: Encoding,
    *,
    begin: str | None = None,
    edits: Sequence[Edit] = (),
    scores: bool = False,
    **options: object,
) -> Answer:
    """The model's answer by Hugging Face's `generate`: see `Probe.generate`."""
    (answer,) = generate_answers(runtime, encoder, encoding, begin=begin, edits=edits, scores=scores, count=None, **options)
    return answer


def generate_answers(
    runtime: Runtime,
    encoder: Encoder,
    encoding: Encoding,
    *,
    begin: str | None = None,
    edits: Sequence[Edit] = (),
    scores: bool = False,
    count: int | None = None,
    **options: object,
) -> list[Answer]:
    """The model's answers by Hugging Face's `generate`, `count` of them, one if that is None: see `Probe.generate`."""
    asked = asked_of(runtime, encoder, options, count=count, scores=scores)
    start = encoding.with_answer(begin) if begin else encoding
    if has_ended(start):
        unscored = scores and start.log_probabilities is None
        return [replace(start, log_probabilities=torch.zeros(0)) if unscored else start] * (count or 1)
    edited = partial(runtime.generate_edited, start, edits=edits) if edits else None
    try:
        rows = new_tokens(runtime, start.inputs, asked.settings, scores=scores, generate=edited)
    except NotFinite as error:
        raise runtime.not_finite_with_layer(error, [Batch.of(start)], edits) from error
    if count:
        rows = [asked.ending.cut(row) for row in rows]
    return [answer_with(encoding, start, row) for row in rows]


def asked_of(
    runtime: Runtime, encoder: Encoder, options: Mapping[str, object], *, count: int | None = None, scores: bool = False
) -> GenerationOptions:
    """What a model's generate() is asked for: see `generation_options`.

    Raises:
        ProbeError: also if the family's generate() does not go on from the prompt.
    """
    model = runtime.model
    if reason := runtime.backbone.no_generate_reason:
        raise ProbeError(
            f"{runtime.family} cannot generate() here: {reason}. Generate with the Hugging Face model, and read the answer by "
            "encoding.with_answer(text)."
        )
    return generation_options(
        options,
        encoder.pad_token_id(),
        runtime.modules.image_token_id,
        model.generation_config,
        count=count,
        scores=scores,
        other_ends=ends_of_submodels(model),
    )


def has_ended(start: Encoding) -> TypeGuard[Answer]:
    """Whether an answer has its end already, and is not continued."""
    return isinstance(start, Answer) and "end" in start.tokens.spans


def answer_with(encoding: Encoding, start: Encoding, added: NewTokens) -> Answer:
    """The answer of a prompt.

    Args:
        encoding: the prompt, or an answer that was continued.
        start: the same with the words that the answer begins with.
    """
    kept = start.tokens.ids[encoding.prompt_length :]
    return encoding.with_answer_ids((*kept, *added.ids), log_probabilities=added.log_probabilities)


@dataclass(frozen=True)
class GenerationOptions:
    """What generate() is asked for.

    Attributes:
        settings: the keyword arguments of Hugging Face's generate() besides its inputs.
        effective: the values of all settings that result, the checkpoint's for those left open.
        ending: where an answer ends.
    """

    settings: Mapping[str, object]
    effective: Mapping[str, object]
    ending: Ending

    @property
    def most_new_tokens(self) -> int:
        """How many tokens an answer has at most, if they are counted; else 0."""
        return as_int(self.effective.get("max_new_tokens")) or 0


def generation_options(
    options: Mapping[str, object],
    pad_token_id: int | None,
    image_token_id: int | None,
    checkpoint: GenerationConfig,
    *,
    count: int | None = None,
    scores: bool = False,
    other_ends: frozenset[int] = frozenset(),
) -> GenerationOptions:
    """What `model.generate` is asked for besides its inputs.

    Args:
        options: the user's. A `generation_config` is taken as it is, with the other options over it.
        checkpoint: the checkpoint's own settings, which hold where the options say nothing.
        image_token_id: never generated: Hugging Face would look for another image. None: the model has none.
        count: how many answers were asked for; None: one.
        scores: whether each token's log-probability is kept.
        other_ends: the ends of submodels that may generate in the model's place, where the user names none.

    Raises:
        ProbeError: `generation_config` is no GenerationConfig, it asks for several sequences, or several equal ones would result; scores
            and states along with the answer; `scores` where tokens are not chosen from the model's own distribution.
    """
    own = dict(options)
    config = own.pop("generation_config", None)
    if config is not None and not isinstance(config, GenerationConfig):
        raise ProbeError(f"generation_config= is a {type(config).__name__}. Pass a transformers.GenerationConfig, or its settings by name.")
    suppressed: Any = own.pop("suppress_tokens", None) or getattr(config or checkpoint, "suppress_tokens", None) or ()
    forbidden = [*suppressed, *([] if image_token_id is None else [image_token_id])]
    if forbidden:
        own["suppress_tokens"] = forbidden
    if count is not None:
        own["num_return_sequences"] = count
    if config is not None:
        settings, effective = _over_config(config, own, pad_token_id, checkpoint)
    else:
        settings = _greedy_by_default({"num_return_sequences": 1} | own, pad_token_id)
        effective = vars(checkpoint) | settings
    _refuse_other_outputs(own if config is None else effective)
    _refuse_other_counts(effective, count)
    if scores:
        _refuse_unscored(effective)
    named: Any = effective.get("eos_token_id")
    ends = ids_of(named) | (frozenset() if "eos_token_id" in own or config is not None else other_ends)
    padding: Any = effective.get("pad_token_id")
    others = any(effective.get(name) for name in ("stop_strings", "stopping_criteria"))
    return GenerationOptions(settings, effective, Ending(ends, padding, others))


def _over_config(
    config: GenerationConfig, options: Mapping[str, object], pad_token_id: int | None, checkpoint: GenerationConfig
) -> tuple[dict[str, object], Mapping[str, object]]:
    """The user's configuration with options over it; and the values of all settings that result: the checkpoint's for those left open."""
    merged = copy.deepcopy(config)
    arguments = merged.update(**options)  # what is no setting, such as a logits_processor, is an argument of generate() itself
    if merged.pad_token_id is None:
        merged.pad_token_id = pad_token_id
    if merged.num_return_sequences is None:
        merged.num_return_sequences = 1
    decided = {name: value for name, value in vars(merged).items() if value is not None}
    return {"generation_config": merged, **arguments}, vars(checkpoint) | decided | arguments


def _greedy_by_default(options: Mapping[str, object], pad_token_id: int | None) -> dict[str, object]:
    settings: dict[str, object] = {"do_sample": False, "pad_token_id": pad_token_id} | dict(options)
    if "max_length" not in options:
        settings = {"max_new_tokens": MAX_NEW_TOKENS} | settings
    if not settings["do_sample"]:
        # A checkpoint's sampling defaults mean nothing to greedy search, and make transformers warn.
        settings = {"temperature": None, "top_p": None, "top_k": None} | settings
    return settings


def _refuse_other_outputs(settings: Mapping[str, object]) -> None:
    """Refuse settings under which Hugging Face returns more than ids."""
    for name, instead in _READ_INSTEAD.items():
        if settings.get(name):
            raise ProbeError(f"{name}={settings[name]}: generate() returns an Answer, which has none of these. {instead}")


def _refuse_other_counts(settings: Mapping[str, object], count: int | None) -> None:
    """Refuse several answers that were not asked of generate() itself, and several that would all be the same."""
    several: Any = settings.get("num_return_sequences") or 1
    if count is None and several > 1:
        raise ProbeError(
            f"generation_config has num_return_sequences={several}. Pass num_return_sequences={several} to generate() itself: it then "
            "returns a list of Answers."
        )
    if count is not None and (as_int(count) is None or count < 1):
        raise ProbeError(f"num_return_sequences={count!r}: how many answers to return, 1 or more.")
    beams: Any = settings.get("num_beams") or 1
    if several > 1 and not settings.get("do_sample") and beams < several:
        raise ProbeError(
            f"num_return_sequences={several}: greedy answers are all the same. Pass do_sample=True, or num_beams={several} or more."
        )


def _refuse_unscored(settings: Mapping[str, object]) -> None:
    """Refuse `scores` with settings under which a token is not chosen from one step's distribution."""
    for name in unscored_settings(settings):
        raise ProbeError(
            f"scores=True with {name}={settings[name]}: tokens are not chosen one by one from the model's own distribution. Leave one "
            "of them out, or read probe.Logits(at=answer.tokens.predicting('answer')) of the answer with run()."
        )


def unscored_settings(settings: Mapping[str, object]) -> list[str]:
    """The settings under which a token is not chosen from one step's distribution."""
    return [name for name, idle in _UNSCORED.items() if settings.get(name) not in (None, idle)]


_UNSCORED = MappingProxyType(
    {
        "num_beams": 1,
        "guidance_scale": 1,
        **dict.fromkeys(("assistant_model", "penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "custom_generate")),
    }
)
"""Settings of Hugging Face's generate() that `scores` cannot follow, and the value with which each does nothing."""

_READ_LOGITS = "Pass scores=True for each token's log-probability, or read them all with run(answer, [probe.Logits(at='answer')])."
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
"""What a checkpoint's generation settings may hold that `probe.sessions.decoding.greedy` does not follow, and the value with which it does nothing."""


def unsupported_generation_settings(settings: GenerationConfig) -> tuple[str, ...]:
    """The settings that do something which `probe.sessions.decoding.greedy.Greedy` does not follow: each question has to be asked alone."""
    return tuple(name for name, idle in _UNSUPPORTED.items() if getattr(settings, name, None) not in (None, idle))
