"""Greedy decoding of many sequences behind one prefix: each with the tokens that Hugging Face's generate() would give it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

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
from probe.sessions.prefix import Continuations, PackedInputs

Item = TypeVar("Item")
Made = TypeVar("Made")

TOKEN_BUDGET = {"ask": 3072, "score": 1024, "trace": 1024}
"""Kind of work -> tokens that keep a processor busy. Answers get theirs one at a time, so that more of them fit into a pass."""


NEXT_LOGITS = "The logits of the next token hold NaN or infinity."

_NOTHING = -1  # in place of a token


@dataclass(frozen=True)
class Greedy:
    """How tokens are chosen, and where an answer ends.

    Attributes:
        penalties: what a checkpoint does to its logits, by what was said before.
        forbidden: tokens that are never chosen.
        ends: the tokens that end an answer; they belong to it.
    """

    penalties: LogitsProcessorList
    forbidden: tuple[int, ...]
    ends: frozenset[int]

    @classmethod
    def of(cls, settings: GenerationConfig, image_token_id: int) -> Greedy:
        """The rules of a checkpoint; its image token is never generated."""
        penalties = LogitsProcessorList()
        if (settings.repetition_penalty or 1.0) != 1.0:
            penalties.append(RepetitionPenaltyLogitsProcessor(penalty=settings.repetition_penalty))
        if settings.no_repeat_ngram_size:
            penalties.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
        ends = settings.eos_token_id
        forbidden = (*(settings.suppress_tokens or ()), image_token_id)
        return cls(penalties, forbidden, frozenset([] if ends is None else ends if isinstance(ends, list) else [ends]))

    def choose(self, known: Sequence[Sequence[int]], logits: Float[Tensor, "sequence vocabulary"]) -> list[int]:
        """The token that follows each sequence.

        Raises:
            NotFinite: the best logit of one of them is NaN or infinite.
        """
        scores = logits.float()
        if self.penalties:
            ids = [torch.tensor([one], dtype=torch.long, device=logits.device) for one in known]
            scores = torch.cat([self._penalised(one, score[None]) for one, score in zip(ids, scores, strict=True)])
        scores = scores.index_fill(1, torch.tensor(self.forbidden, device=logits.device), -torch.inf)
        best = scores.max(-1)  # NaN, where there is one
        chosen: list[int] = torch.where(best.values.isfinite(), best.indices, _NOTHING).tolist()
        if _NOTHING in chosen:
            raise NotFinite(NEXT_LOGITS)
        return chosen

    def _penalised(self, ids: Tensor, scores: Tensor) -> Tensor:
        penalised: Tensor = self.penalties(ids, scores)
        return penalised


@dataclass(frozen=True)
class Start:
    """A sequence to go on with.

    Attributes:
        known: all of its tokens, the prefix among them.
        own: those behind the prefix, one or more.
        room: how many more it may get.
    """

    known: tuple[int, ...]
    own: tuple[int, ...]
    room: int


def decode(
    sequences: Continuations,
    starts: Sequence[Start],
    forward: Callable[[PackedInputs], Float[Tensor, "sequence vocabulary"]],
    rules: Greedy,
) -> list[tuple[int, ...]]:
    """Decode all sequences together, each until it ends by itself: what was added to each.

    Args:
        forward: runs the model on packed inputs and returns the logits of each sequence's last token.
    """
    logits = forward(sequences.next_inputs([start.own for start in starts]))
    answers: list[list[int]] = [[] for _ in starts]
    active = [number for number, start in enumerate(starts) if start.room > 0]
    logits = logits[active]
    sequences.select_sequences(active)
    while active:
        chosen = rules.choose([(*starts[number].known, *answers[number]) for number in active], logits)
        for number, token in zip(active, chosen, strict=True):
            answers[number].append(token)
        going = [row for row, number in enumerate(active) if chosen[row] not in rules.ends and len(answers[number]) < starts[number].room]
        active = [active[row] for row in going]
        sequences.select_sequences(going)
        if active:
            logits = forward(sequences.next_inputs([answers[number][-1:] for number in active]))
    return [tuple(answer) for answer in answers]


class AdaptiveBatcher:
    """How much goes through a model at once: as much as fits, found by halving when memory runs out, and by doubling again later.

    Args:
        most: the limit to begin with, in tokens: what keeps a processor busy. More would not be faster, since sequences in one row look
            past each other's keys.

    Attributes:
        most: the present limit.
    """

    def __init__(self, most: int) -> None:
        self.most = self._ceiling = most
        self._wait = _FIRST_WAIT  # groups that have to pass before the limit is doubled; longer after each shortage
        self._passed = 0

    def together(self, items: Sequence[Item], sizes: Sequence[int], work: Callable[[list[Item]], list[Made]]) -> list[Made]:
        """`work` on all items, in groups of like length, the results in the items' order.

        Args:
            sizes: the tokens of each item. A group takes as many as its largest, times its items.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: one item alone does not fit.
        """
        waiting = sorted(range(len(items)), key=lambda place: -sizes[place])
        made: dict[int, Made] = {}
        while waiting:
            fitting = max(1, self.most // max(1, sizes[waiting[0]]))
            count = ceil(len(waiting) / ceil(len(waiting) / fitting))  # groups of one size, rather than full ones and a rest
            group = waiting[:count]
            done = self._attempt(work, [items[place] for place in group], last=count == 1)
            if done is None:
                self._shrink(count * sizes[waiting[0]])
                continue
            self._passed += 1
            self._grow()
            made |= dict(zip(group, done, strict=True))
            waiting = waiting[count:]
        return [made[place] for place in range(len(items))]

    def _shrink(self, tried: int) -> None:
        self.most = max(1, tried // 2)
        self._wait, self._passed = min(2 * self._wait, _LONGEST_WAIT), 0

    def _grow(self) -> None:
        """Somebody else may have needed the memory for a moment only."""
        if self.most < self._ceiling and self._passed >= self._wait:
            self.most, self._passed = min(2 * self.most, self._ceiling), 0

    @staticmethod
    def _attempt(work: Callable[[list[Item]], list[Made]], group: list[Item], *, last: bool) -> list[Made] | None:
        """None: memory ran out. The exception is dropped before the next try: its traceback keeps the failed group's tensors alive."""
        try:
            return work(group)
        except (RuntimeError, MemoryError) as error:
            if last or not out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


_FIRST_WAIT, _LONGEST_WAIT = 4, 256

_SHORTAGES = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")
"""How devices and libraries say that memory ran out, where they do not raise torch.OutOfMemoryError."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, in whatever words."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error).casefold() for words in _SHORTAGES)


def last_logits(model: Any, packed: PackedInputs) -> Float[Tensor, "sequence vocabulary"]:
    """Run the model on packed inputs: the logits of each sequence's last token."""
    places = sorted({index for _, index in packed.last})
    # On the CPU, which can index a tensor on any device: the last block may lie on another than the first.
    logits: Tensor = model(**packed.inputs, logits_to_keep=torch.tensor(places, dtype=torch.long)).logits
    rows = torch.tensor([row for row, _ in packed.last], device=logits.device)
    cols = torch.tensor([places.index(index) for _, index in packed.last], device=logits.device)
    return logits[rows, cols]
