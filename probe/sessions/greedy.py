"""Greedy decoding of many sequences after one prefix: each gets the tokens that Hugging Face's generate() would give it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from probe.errors import NotFinite
from probe.sessions.continuations import Continuations, PackedInputs
from probe.tokens.spans import TokenMap
from probe.tracing.edits.stepwise import tokens_with_answer

_NO_TOKEN = -1


@dataclass(frozen=True)
class Greedy:
    """How tokens are chosen, and where an answer ends.

    Attributes:
        penalties: logits processors that depend on the tokens before.
        forbidden: tokens that are never chosen.
        ends: the tokens that end an answer; they belong to it.
    """

    penalties: LogitsProcessorList
    forbidden: tuple[int, ...]
    ends: frozenset[int]

    @classmethod
    def of(cls, settings: GenerationConfig, image_token_id: int | None) -> Greedy:
        """The rules of a checkpoint; its image token, if it has one, is never generated."""
        penalties = LogitsProcessorList()
        if (settings.repetition_penalty or 1.0) != 1.0:
            penalties.append(RepetitionPenaltyLogitsProcessor(penalty=settings.repetition_penalty))
        if settings.no_repeat_ngram_size:
            penalties.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
        ends = settings.eos_token_id
        forbidden = (*(settings.suppress_tokens or ()), *([] if image_token_id is None else [image_token_id]))
        return cls(penalties, forbidden, frozenset([] if ends is None else ends if isinstance(ends, list) else [ends]))

    def next_tokens(self, sequences: Sequence[Sequence[int]], logits: Float[Tensor, "sequence vocabulary"]) -> list[int]:
        """The token that follows each sequence.

        Args:
            sequences: the ids of each, prefix included.

        Raises:
            NotFinite: the best logit of one of them is NaN or infinite.
        """
        scores = logits.float()
        if self.penalties:
            ids = [torch.tensor([one], dtype=torch.long, device=logits.device) for one in sequences]
            scores = torch.cat([self._penalised(one, score[None]) for one, score in zip(ids, scores, strict=True)])
        scores = scores.index_fill(1, torch.tensor(self.forbidden, dtype=torch.long, device=logits.device), -torch.inf)
        best = scores.max(-1)  # NaN, where there is one
        tokens: list[int] = torch.where(best.values.isfinite(), best.indices, _NO_TOKEN).tolist()
        if _NO_TOKEN in tokens:
            raise NotFinite.of_next_logits()
        return tokens

    def _penalised(self, ids: Tensor, scores: Tensor) -> Tensor:
        penalised: Tensor = self.penalties(ids, scores)
        return penalised


@dataclass
class Decoding:
    """One sequence while it is decoded.

    Attributes:
        tokens: of its prompt.
        prompt_length: where its answer begins.
        ids: all of its tokens, the prefix included.
        unread: those that the model has not run yet.
        remaining: how many more it may get; 0: it has ended.
        added: the tokens of its answer so far.
    """

    tokens: TokenMap
    prompt_length: int
    ids: tuple[int, ...]
    unread: tuple[int, ...]
    remaining: int
    added: tuple[int, ...] = field(default=())

    @property
    def tokens_so_far(self) -> TokenMap:
        """Its tokens, those of its answer as the span "answer"."""
        return tokens_with_answer(self.tokens, self.prompt_length, self.ids)

    def append(self, token: int, ends: frozenset[int], read: int) -> None:
        """Add a token, which may be the last, unless the pass that it comes from has read some of the unread tokens alone.

        Args:
            read: how many.
        """
        if read < len(self.unread):
            self.unread = self.unread[read:]
            return
        self.added += (token,)
        self.ids += (token,)
        self.unread = (token,)
        self.remaining = 0 if token in ends else self.remaining - 1


def decode(
    continuations: Continuations,
    sequences: Sequence[Decoding],
    forward: Callable[[PackedInputs, Sequence[Decoding]], Float[Tensor, "sequence vocabulary"]],
    rules: Greedy,
    *,
    with_keys: bool = False,
) -> list[tuple[int, ...]]:
    """The tokens that are added to each sequence, all decoded together, each until it ends by itself.

    Args:
        forward: runs the model on the packed inputs of some sequences and returns the logits of each one's last token.
        with_keys: see `Continuations.next_inputs`.
    """
    active = list(sequences)
    while going := [index for index, one in enumerate(active) if one.remaining > 0]:
        if len(going) < len(active):
            continuations.select_sequences(going)
            active = [active[index] for index in going]
        lengths = [len(one.unread) for one in active]
        if not continuations.padded:
            lengths = [min(lengths)] * len(active)
        new = [one.unread[:length] for one, length in zip(active, lengths, strict=True)]
        logits = forward(continuations.next_inputs(new, with_keys=with_keys), active)
        for one, length, token in zip(active, lengths, rules.next_tokens([one.ids for one in active], logits), strict=True):
            one.append(token, rules.ends, length)
    return [one.added for one in sequences]
