"""How much goes through a model at once: as much as fits into its memory, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

TOKEN_BUDGET = {
    "ask": 3072,
    "score": 1024,
    "trace": 1024,
    "variants": 1024,
    "run_many": 4096,
    "generate_many": 4096,
    "open": 16384,
    "together": 32768,
}
"""Kind of work -> tokens of a pass that keep a processor busy. Answers grow one token at a time, so that more of them fit into a pass; how
many images are opened, and asked, together is the user's choice, which this only limits."""

_FIRST_WAIT, _LONGEST_WAIT = 4, 256

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")
"""Messages of devices and libraries that ran out of memory and do not raise torch.OutOfMemoryError."""


class AdaptiveBatcher:
    """Splits work into batches of a limited number of tokens. The limit halves when memory runs out and doubles again later.

    Args:
        limit: tokens of a batch to begin with: what keeps a processor busy. More would not be faster, since sequences packed into one
            row compute scores for each other's keys, too.

    Attributes:
        limit: the present limit.

    >>> from probe.batcher import AdaptiveBatcher
    >>> AdaptiveBatcher(8).map(["four", "words", "in", "twos"], [4, 4, 4, 4], lambda batch: [(word, len(batch)) for word in batch])
    [('four', 2), ('words', 2), ('in', 2), ('twos', 2)]
    """

    def __init__(self, limit: int) -> None:
        self.limit = self._ceiling = limit
        self._wait = _FIRST_WAIT  # batches that have to pass before the limit doubles; more after each shortage
        self._passed = 0

    def map(self, items: Sequence[Item], sizes: Sequence[int], work: Callable[[list[Item]], list[Result]]) -> list[Result]:
        """The results of `work` on all items, in the items' order; `work` gets batches of items of similar size.

        Args:
            sizes: the tokens of each item. A batch counts as its largest item, times its items.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: one item alone does not fit.
        """
        waiting = _largest_first(sizes)
        results: dict[int, Result] = {}
        while waiting:
            batch = self._next(waiting, sizes)
            done = self.attempt([items[index] for index in batch], sizes[batch[0]], work)
            if done is not None:
                results |= dict(zip(batch, done, strict=True))
                waiting = waiting[len(batch) :]
        return [results[index] for index in range(len(items))]

    def split(self, sizes: Sequence[int]) -> list[list[int]]:
        """The indices of the items of each batch that `map` would make with the present limit.

        >>> from probe.batcher import AdaptiveBatcher
        >>> AdaptiveBatcher(8).split([2, 4, 4, 3])
        [[1, 2], [3, 0]]
        """
        waiting, batches = _largest_first(sizes), []
        while waiting:
            batches.append(self._next(waiting, sizes))
            waiting = waiting[len(batches[-1]) :]
        return batches

    def _next(self, waiting: list[int], sizes: Sequence[int]) -> list[int]:
        """The next batch of items that wait, the largest first: batches of one size, rather than full ones and a rest."""
        fitting = self.fitting(sizes[waiting[0]])
        return waiting[: ceil(len(waiting) / ceil(len(waiting) / fitting))]

    def fitting(self, largest: int) -> int:
        """How many items a batch may have, the largest of which has so many tokens; at least one."""
        return max(1, self.limit // max(1, largest))

    def attempt(self, batch: list[Item], largest: int, work: Callable[[list[Item]], list[Result]]) -> list[Result] | None:
        """What `work` returns for a batch; None: memory ran out, and the limit is now half of what was tried.

        Args:
            largest: the tokens of the largest item.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: one item alone does not fit.
        """
        done = self._attempt(work, batch, last=len(batch) == 1)
        if done is None:
            self._shrink(len(batch) * largest)
        else:
            self._grow()
        return done

    def _shrink(self, tried: int) -> None:
        self.limit = max(1, tried // 2)
        self._wait, self._passed = min(2 * self._wait, _LONGEST_WAIT), 0

    def _grow(self) -> None:
        """Count a batch that fitted. Another process may have needed the memory for a moment only."""
        self._passed += 1
        if self.limit < self._ceiling and self._passed >= self._wait:
            self.limit, self._passed = min(2 * self.limit, self._ceiling), 0

    @staticmethod
    def _attempt(work: Callable[[list[Item]], list[Result]], batch: list[Item], *, last: bool) -> list[Result] | None:
        """None: memory ran out. Drop the exception before retrying: its traceback keeps the failed batch's tensors alive."""
        try:
            return work(batch)
        except (RuntimeError, MemoryError) as error:
            if last or not out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _largest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda index: -sizes[index])


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error).casefold() for words in _OUT_OF_MEMORY)
