"""What Hugging Face's generate() adds to each row of a batch, the log-probabilities of the new tokens, and where an answer ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.utils import ModelOutput

from probe.errors import NotFinite
from probe.runtime import Runtime
from probe.tracing.capturing.finite import FiniteCheck


@dataclass(frozen=True)
class NewTokens:
    """What generate() added to one row.

    Attributes:
        ids: of the tokens.
        log_probabilities: of each, float32 on the CPU; None: not asked for.
    """

    ids: tuple[int, ...]
    log_probabilities: Tensor | None


def new_tokens(
    runtime: Runtime,
    inputs: Mapping[str, Tensor],
    settings: Mapping[str, object],
    *,
    scores: bool,
    generate: Callable[[Mapping[str, object], Mapping[str, object]], Tensor | ModelOutput] | None = None,
) -> list[NewTokens]:
    """What Hugging Face's generate() adds to each row, padding after its end included.

    Args:
        settings: the other arguments of generate().
        generate: called with the model's inputs and the settings instead.

    Raises:
        NotFinite: a step's logits are NaN or infinite.
    """
    model, finite, chosen = runtime.model, FiniteLogits(), ChosenScores()
    processors: Any = settings.get("logits_processor") or ()
    watched = {**settings, "logits_processor": LogitsProcessorList([*processors, finite, *([chosen] if scores else [])])}
    with runtime.engine.lock, torch.no_grad(), chosen.watching(model) if scores else nullcontext():
        given = runtime.backbone.forward_inputs(model, inputs)
        output = generate(given, watched) if generate else model.generate(**given, **watched)
    if finite.check.failed():
        raise NotFinite.of_next_logits()
    sequences: Tensor = getattr(output, "sequences", output)
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    known = inputs[name].shape[1] if "input_ids" in given or "decoder_input_ids" in given else 0
    scored = chosen.log_probabilities(sequences) if scores else [None] * len(sequences)
    return [NewTokens(tuple(row[known:]), one) for row, one in zip(sequences.tolist(), scored, strict=True)]


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
        ends: the tokens that may end an answer; they belong to it.
        padding: what follows the end.
        others: whether other rules end single answers, too, such as `stop_strings`.
    """

    ends: frozenset[int]
    padding: int | None
    others: bool

    def cut(self, added: NewTokens) -> NewTokens:
        """The tokens without padding after the end: up to the one that ended the answer, or, if another rule ended it, the last real one."""
        ids, scored = added.ids, added.log_probabilities
        after = {self.padding, *self.ends}  # Hugging Face takes an end for padding where there is none
        last = next((index for index in reversed(range(len(ids))) if ids[index] not in after), -1)
        # A token with more words behind it has ended nothing: a submodel that generates may have ends of its own.
        stop = next((index + 1 for index in range(last + 1, len(ids)) if ids[index] in self.ends), None)
        if stop is None:
            stop = len(ids)
            while self.others and stop and ids[stop - 1] == self.padding:
                stop -= 1
        # A copy: a view would keep the scores of the padding.
        return NewTokens(ids[:stop], None if scored is None else scored[:stop].clone())


def ends_of_submodels(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end what submodels generate, which some models let generate in their place."""
    settings = [getattr(module, "generation_config", None) for module in model.modules() if isinstance(module, PreTrainedModel)]
    return frozenset(token for one in settings if one is not None for token in ids_of(one.eos_token_id))


def ids_of(ends: int | Sequence[int] | None) -> frozenset[int]:
    """The ids in a setting that may be one, several or None."""
    return frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)
