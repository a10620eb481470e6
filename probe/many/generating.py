"""generate_many: the answers to many prompts, in order, from padded batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from probe.backbones import Backbone
from probe.encoder import Encoder
from probe.errors import InvalidRead
from probe.generated import new_tokens
from probe.generation import GenerationOptions, answer_with, asked_of, generate, has_ended, unscored_settings
from probe.inputs.encoding import Answer, Encoding
from probe.many.joining import IDS, Joined, joined, kind_of
from probe.many.ordered import Prepared
from probe.many.rows import RowWork
from probe.runtime import Batch, Runtime
from probe.sessions.policies import PLACES_BY_CACHE
from probe.sessions.prefix import max_rope_length
from probe.tokens.equality import near
from probe.tracing.edits import Edit
from probe.tracing.reads import Logits

_COUNTING = MappingProxyType(
    {
        "repetition_penalty": 1,
        "no_repeat_ngram_size": 0,
        "encoder_repetition_penalty": 1,
        "encoder_no_repeat_ngram_size": 0,
        "min_length": 0,
    }
)
"""Settings of generate() that look at the prompt's tokens or at their number, padding among them, and the value with which each does nothing."""

_OF_ONE_ROW = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer")
"""Options of generate() with code of the user's own, which need not know of other rows."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to be answered.

    Attributes:
        encoding: as it was given.
        start: with the words that the answer begins with.
        reason: why it shares no batch; "" if it may.
    """

    encoding: Encoding
    start: Encoding
    reason: str

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The arguments of Hugging Face's generate()."""
        return self.start.inputs


class Generations(RowWork[Prompt, Answer]):
    """Answers to many prompts with the same options: see `Probe.generate_many`."""

    name = "generate_many"

    def __init__(
        self, runtime: Runtime, encoder: Encoder, *, begin: str | None, edits: Sequence[Edit], scores: bool, options: Mapping[str, object]
    ) -> None:
        super().__init__(runtime)
        self._begin, self._scores = begin, scores
        self._options: GenerationOptions = asked_of(runtime, encoder, options, scores=scores)
        self._generate: Callable[[Encoding], Answer] = lambda encoding: generate(
            runtime, encoder, encoding, begin=begin, edits=edits, scores=scores, **dict[str, Any](options)
        )
        self._reason = _reason(runtime, edits, self._options)
        self._unpadded = _no_padding(runtime, self._options)

    def prepare(self, item: Encoding) -> Prepared[Prompt]:
        """The prompt with the words that its answer begins with."""
        if not isinstance(item, Encoding):
            raise InvalidRead(f"generate_many() takes what encode() returned, got a {type(item).__name__}.")
        runtime = self.runtime
        start = item.with_answer(self._begin) if self._begin else item
        reason = self._reason
        if len(start.tokens) > max_rope_length(runtime.model.config):
            reason = reason or "a prompt is longer than the model's rotary frequencies are fixed for"
        prompt, length = Prompt(item, start, reason), start.sequence.shape[1]
        if reason or has_ended(start):
            return Prepared(prompt, length, None)
        # Where an encoder reads the prompt, the decoder's own tokens are padded nowhere.
        unpadded = self._unpadded or "decoder_input_ids" in start.inputs or bool(runtime.backbone.leading(runtime.model, start.inputs))
        kind = (kind_of(start.inputs, runtime.backbone), length if unpadded else None)
        longest = max(start.inputs[name].shape[1] for name in IDS if name in start.inputs)
        return Prepared(prompt, longest + self._options.most_new_tokens, kind)

    def alone(self, row: Prompt) -> Answer:
        """See `RowWork.alone`."""
        return self._generate(row.encoding)

    def joined(self, batch: Sequence[Prompt]) -> Joined:
        """See `RowWork.joined`."""
        left = frozenset() if "decoder_input_ids" in batch[0].inputs else batch[0].start.token_inputs
        return joined([row.inputs for row in batch], self.runtime, left)

    def kind(self, batch: Sequence[Prompt]) -> Hashable:
        """See `RowWork.kind`."""
        return None

    def together(self, batch: Sequence[Prompt], joined: Joined, *, trusted: bool) -> list[Answer] | str:
        """See `RowWork.together`."""
        options = self._options
        scores = self._scores or not trusted
        rows = new_tokens(self.runtime, joined.inputs, options.settings, scores=scores)
        return [answer_with(row.encoding, row.start, options.ending.cut(added)) for row, added in zip(batch, rows, strict=True)]

    def kept(self, result: Answer) -> Answer:
        """The answer without the probabilities that `agrees` alone needed."""
        return result if self._scores else replace(result, log_probabilities=None)

    def agrees(self, result: Answer, row: Prompt) -> bool:
        """Whether the answer's tokens had the probabilities that one forward over the whole answer gives them."""
        own, count = result.log_probabilities, len(result.tokens) - len(row.start.tokens)
        if own is None or len(own) < count:  # some families' generate() calls no logits processor
            return result.tokens == self.alone(row).tokens
        if not count:
            return True
        last = range(len(result.tokens) - count - 1, len(result.tokens) - 1)
        trace = self.runtime.run(Batch.of(result), [Logits(at=tuple(last))])
        logits = trace.logits().data[0].float().log_softmax(-1)
        chosen = logits[torch.arange(count), list(result.tokens.ids[-count:])]
        return near(own[-count:].to(self.runtime.model.dtype), chosen.cpu().to(self.runtime.model.dtype))


def _reason(runtime: Runtime, edits: Sequence[Edit], options: GenerationOptions) -> str:
    """Why each answer is generated alone; "" if several may share a batch."""
    if runtime.backbone.alone_reason:
        return runtime.backbone.alone_reason
    if edits:
        return "edits of a generation name positions of one prompt"
    own = [name for name in _OF_ONE_ROW if options.effective.get(name)]
    if own:
        return f"{own[0]}= may know of one row alone"
    unscored = unscored_settings(options.effective)
    return f"{unscored[0]}={options.effective[unscored[0]]} does not choose tokens one by one" if unscored else ""


def equal_prompts_reason(backbone: Backbone) -> str:
    """Why only prompts of equal length are answered in one batch of a family; "" if shorter ones are padded."""
    return backbone.equal_prompts_reason or (PLACES_BY_CACHE if backbone.counts_cached else "")


def _no_padding(runtime: Runtime, options: GenerationOptions) -> bool:
    """Whether only prompts of equal length share a batch."""
    counting = any(options.effective.get(name) not in (None, idle) for name, idle in _COUNTING.items())
    return bool(counting or options.effective.get("max_new_tokens") is None or equal_prompts_reason(runtime.backbone))
