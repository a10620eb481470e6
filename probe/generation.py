"""Generation with Hugging Face's own options: greedy by default, and no option is ignored silently."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from probe.encoder import Encoder
from probe.errors import NotFinite, ProbeError
from probe.inputs.encoding import Answer, Encoding
from probe.runtime import Batch, Runtime
from probe.tokens.integers import as_int
from probe.tracing.capturing.finite import FiniteCheck
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
    model = runtime.model
    if reason := runtime.backbone.no_generate_reason:
        raise ProbeError(
            f"{runtime.family} cannot generate() here: {reason}. Generate with the Hugging Face model, and read the answer by "
            "encoding.with_answer(text)."
        )
    settings, ending = generation_options(
        options, encoder.pad_token_id(), runtime.modules.image_token_id, model.generation_config, count=count, scores=scores
    )
    start = encoding.with_answer(begin) if begin else encoding
    if isinstance(start, Answer) and "end" in start.tokens.spans:
        unscored = scores and start.log_probabilities is None
        return [replace(start, log_probabilities=torch.zeros(0)) if unscored else start] * (count or 1)
    finite, chosen = FiniteLogits(), ChosenScores()
    processors: Any = settings.get("logits_processor") or ()
    settings["logits_processor"] = LogitsProcessorList([*processors, finite, *([chosen] if scores else [])])
    with runtime.engine.lock, torch.no_grad(), chosen.watching(model) if scores else nullcontext():
        inputs = runtime.backbone.forward_inputs(model, start.inputs)
        output = runtime.generate_edited(start, inputs, settings, edits) if edits else model.generate(**inputs, **settings)
    if finite.check.failed():
        raise runtime.not_finite_with_layer(NotFinite.of_next_logits(), [Batch.of(start)], edits)
    sequences: Tensor = getattr(output, "sequences", output)
    kept = start.tokens.ids[encoding.prompt_length :]
    known = start.sequence.shape[1] if "input_ids" in inputs or "decoder_input_ids" in inputs else 0
    of_rows = chosen.log_probabilities(sequences) if scores else [None] * len(sequences)
    answers = []
    for row, scored in zip(sequences.tolist(), of_rows, strict=True):
        ids = ending.cut(row[known:]) if count else row[known:]
        padding = len(row) - known - len(ids)
        answers.append(
            encoding.with_answer_ids((*kept, *ids), log_probabilities=None if scored is None else scored[: len(scored) - padding].clone())
        )
    return answers


class FiniteLogits(LogitsProcessor):
    """Leaves the logits of each step as they are, and checks that the largest is finite (others may be suppressed)."""

    def __init__(self) -> None:
        self.check = FiniteCheck[None]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.check.add(None, scores.amax(-1))
        return scores


class ChosenScores(LogitsProcessor):
    """Leaves the logits of each step as they are, and keeps the log-probability of the token that was then chosen.

    A processor gets logits that Hugging Face's own processors have changed, so the model's are taken from its output. Those of one step are
    held at a time.
    """

    def __init__(self) -> None:
        self._output: Tensor | None = None
        self._pending: Tensor | None = None
        self._steps: list[Tensor] = []

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Take the logits of the model's outputs, or of the submodel's that generates in its place."""
        models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        handles = [module.register_forward_hook(self._keep_output) for module in models]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._choose(input_ids[:, -1:])
        self._pending, self._output = self._output, None
        return scores

    def log_probabilities(self, sequences: Tensor) -> list[Tensor]:
        """For each row the log-probabilities of its generated tokens, those after its end included."""
        self._choose(sequences[:, -1:])
        self._pending = None
        rows = torch.stack(self._steps, dim=1) if self._steps else torch.zeros(len(sequences), 0)
        return list(rows.cpu())

    def _keep_output(self, module: nn.Module, inputs: object, output: object) -> None:
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and logits.ndim == 3:
            self._output = logits[:, -1].to(torch.float32, copy=True)

    def _choose(self, ids: Tensor) -> None:
        """The tokens that were chosen of the last step's logits."""
        if self._pending is not None:
            chosen = self._pending.gather(1, ids.to(self._pending.device))[:, 0]
            self._steps.append(chosen - self._pending.logsumexp(-1))


@dataclass(frozen=True)
class Ending:
    """How an answer ends among others that go on.

    Attributes:
        ends: the tokens that end an answer; they belong to it.
        padding: what follows them.
    """

    ends: frozenset[int]
    padding: int | None

    def cut(self, ids: list[int]) -> list[int]:
        """The ids without padding after the end: up to the first token that ends an answer, or, if another rule ended it, the last real one."""
        stop = next((index + 1 for index, token in enumerate(ids) if token in self.ends), None)
        if stop is None:
            stop = len(ids)
            while stop and ids[stop - 1] == self.padding:
                stop -= 1
        return ids[:stop]


def generation_options(
    options: Mapping[str, object],
    pad_token_id: int | None,
    image_token_id: int | None,
    checkpoint: GenerationConfig,
    *,
    count: int | None = None,
    scores: bool = False,
) -> tuple[dict[str, object], Ending]:
    """The keyword arguments of `model.generate` besides its inputs, and where an answer ends.

    Args:
        options: the user's. A `generation_config` is taken as it is, with the other options over it.
        checkpoint: the checkpoint's own settings, which hold where the options say nothing.
        image_token_id: never generated: Hugging Face would look for another image. None: the model has none.
        count: how many answers were asked for; None: one.
        scores: whether each token's log-probability is kept.

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
    ends: Any = effective.get("eos_token_id")
    padding: Any = effective.get("pad_token_id")
    return settings, Ending(frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends), padding)


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
    for name, idle in _UNSCORED.items():
        if settings.get(name) not in (None, idle):
            raise ProbeError(
                f"scores=True with {name}={settings[name]}: tokens are not chosen one by one from the model's own distribution. Leave one "
                "of them out, or read probe.Logits(at=answer.tokens.predicting('answer')) of the answer with run()."
            )


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
