"""Greedy decoding of many sequences after one prefix: each gets the tokens that Hugging Face's generate() would give it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

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
from probe.sessions.decoding.drafting import Continued, Drafting, drafted
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
            sequences: the ids of each, prefix included; read only where `penalties` are not empty.

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
        draft: a text that its answer may follow from the first new token on.
        seen: other answers to the same kind of question, to draft from; this one is added if it has a draft.
        drafts_at_once: whether the answer is expected to follow it. Otherwise it has to begin like it first.
        added: the tokens of its answer so far.
        drafting: how far drafts saved steps.
    """

    tokens: TokenMap
    prompt_length: int
    ids: tuple[int, ...]
    unread: tuple[int, ...]
    remaining: int
    draft: tuple[int, ...] = ()
    seen: Continued = field(default_factory=Continued)
    drafts_at_once: bool = False
    added: list[int] = field(default_factory=list)
    drafting: Drafting = field(default_factory=Drafting)

    @property
    def tokens_so_far(self) -> TokenMap:
        """Its tokens, those of its answer as the span "answer"."""
        return tokens_with_answer(self.tokens, self.prompt_length, self.ids)

    def drafted(self) -> tuple[int, ...]:
        """The tokens to verify behind those that are unread; none for a sequence without a draft of its own."""
        if not self.draft or not (self.added or self.drafts_at_once):
            return ()
        return drafted(self.added, self.draft, self.seen, self.remaining - 1)

    def append(self, chosen: Sequence[int], verified: Sequence[int], ends: frozenset[int]) -> int:
        """Add the tokens that greedy decoding chose: those that were drafted, as far as they are the same, and the one after them.

        Args:
            chosen: the token behind those that were unread, and behind each that was drafted.
            verified: the drafted tokens.

        Returns:
            how many of the drafted tokens were right.
        """
        right = 0
        for number, token in enumerate(chosen):
            self.added.append(token)
            self.remaining = 0 if token in ends else self.remaining - 1
            if not self.remaining or number == len(verified) or token != verified[number]:
                break
            right += 1
        self.ids += tuple(chosen[: right + 1])
        self.unread = self.ids[-1:]
        self.drafting += Drafting(tokens=right + 1, steps=1, drafted=len(verified), accepted=right)
        return right


Forward = Callable[[PackedInputs, Sequence[Decoding], Sequence[int]], Float[Tensor, "token vocabulary"]]
"""Runs the model on the packed inputs of some sequences: the logits of the last tokens of each, as many as the third argument says."""


def decode(
    continuations: Continuations,
    sequences: Sequence[Decoding],
    forward: Forward,
    rules: Greedy,
    *,
    with_keys: bool = False,
) -> list[tuple[int, ...]]:
    """The tokens that are added to each sequence, all decoded together, each until it ends by itself.

    Args:
        with_keys: see `Continuations.next_inputs`.
    """
    active = list(sequences)
    while going := [index for index, one in enumerate(active) if one.remaining > 0]:
        if len(going) < len(active):
            continuations.select_sequences(going)
            active = [active[index] for index in going]
        drafts = [one.drafted() if continuations.can_drop else () for one in active]
        lengths = [len(one.unread) for one in active]
        if not continuations.padded:
            lengths = [min(lengths)] * len(active)
        new = [(*one.unread[:length], *draft) for one, length, draft in zip(active, lengths, drafts, strict=True)]
        logits = forward(continuations.next_inputs(new, with_keys=with_keys), active, [1 + len(draft) for draft in drafts])
        chosen = iter(rules.next_tokens(_verified(active, drafts) if rules.penalties else (), logits))
        wrong = []
        for one, length, draft in zip(active, lengths, drafts, strict=True):
            tokens = list(islice(chosen, 1 + len(draft)))
            if length < len(one.unread):  # the pass has read some of them alone
                one.unread = one.unread[length:]
                wrong.append(0)
            else:
                right = one.append(tokens, draft, rules.ends)
                wrong.append(len(draft) - right)
                if one.draft:
                    one.seen.note(one.added, right + 1)
        if any(wrong):
            continuations.drop_last(wrong)
    return [tuple(one.added) for one in sequences]


def _verified(sequences: Sequence[Decoding], drafts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The ids before each token that a pass chooses."""
    return [(*one.ids, *draft[:size]) for one, draft in zip(sequences, drafts, strict=True) for size in range(len(draft) + 1)]
