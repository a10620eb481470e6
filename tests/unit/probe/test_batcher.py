"""How much goes through a model at once: halved when memory runs out, in whatever words, and doubled again when it is back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from probe.batcher import AdaptiveBatcher, out_of_memory


def failing(limit: Callable[[], int], error: Exception) -> tuple[list[int], Callable[[list[int]], list[int]]]:
    """The sizes of the groups that went through, and work that runs out of memory over as many items."""
    passed: list[int] = []

    def work(group: list[int]) -> list[int]:
        if len(group) > limit():
            raise error
        passed.append(len(group))
        return group

    return passed, work


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory left"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
    ids=["torch", "python", "cuda", "mps", "cublas", "cpu"],
)
def test_a_shortage_in_whatever_words_is_halved(error: Exception) -> None:
    passed, work = failing(lambda: 2, error)
    assert AdaptiveBatcher(8).map(list(range(8)), [1] * 8, work) == list(range(8))
    assert passed == [2, 2, 2, 2]


def test_other_errors_are_not_taken_for_a_shortage() -> None:
    assert not out_of_memory(RuntimeError("The size of tensor a (4) must match the size of tensor b (5)"))
    _, work = failing(lambda: 0, RuntimeError("expected scalar type Float"))
    with pytest.raises(RuntimeError, match="scalar type"):
        AdaptiveBatcher(8).map([1, 2], [1, 1], work)


def test_after_a_passing_shortage_the_limit_comes_back() -> None:
    limits = iter([2] + [100] * 1000)
    passed, work = failing(lambda: next(limits), MemoryError())
    batcher = AdaptiveBatcher(8)
    for _ in range(20):
        batcher.map(list(range(8)), [1] * 8, work)
    assert passed[0] == 4  # half of the 8 that did not fit
    assert batcher.limit == 8
    assert passed[-1] == 8


def test_a_lasting_shortage_is_tried_ever_more_seldom() -> None:
    tried: list[int] = []

    def work(group: list[int]) -> list[int]:
        tried.append(len(group))
        if len(group) > 4:
            raise MemoryError
        return group

    batcher = AdaptiveBatcher(8)
    for _ in range(200):
        batcher.map(list(range(8)), [1] * 8, work)
    failures = [number for number, size in enumerate(tried) if size == 8]
    waits = [later - earlier for earlier, later in pairwise(failures)]
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]
