"""Iterators over many items: order, laziness, batches halved and grown, threads that end, errors in their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch

from probe.batcher import AdaptiveBatcher
from probe.errors import InvalidRead
from probe.many.ordered import Prepared, head_start, in_order


class Doubling:
    """Doubles numbers of two tokens each; the odd share no batch with the even ones, and 13 shares none at all."""

    name = "double_many"

    def __init__(self, memory: int = 100) -> None:
        self.memory, self.passes, self.prepared = memory, list[list[int]](), list[int]()

    def prepare(self, item: int) -> Prepared[int]:
        if item < 0:
            raise InvalidRead(f"{item} is negative.")
        self.prepared.append(item)
        return Prepared(item, 2, None if item == 13 else item % 2)

    def run(self, batch: Sequence[int]) -> list[int]:
        if len(batch) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.passes.append(list(batch))
        return [2 * item for item in batch]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("probe-double_many")]


def test_results_come_in_order_from_batches_of_neighbours() -> None:
    work = Doubling()
    assert list(in_order([2, 4, 6, 8, 1, 3, 13, 10], work, AdaptiveBatcher(6))) == [4, 8, 12, 16, 2, 6, 26, 20]
    assert work.passes == [[2, 4, 6], [8], [1, 3], [13], [10]]


def test_nothing_runs_before_the_first_result_is_asked_for() -> None:
    work = Doubling()
    results = in_order([2, 4], work, AdaptiveBatcher(6))
    assert work.prepared == []
    assert threads() == []
    assert list(results) == [4, 8]


def test_one_batch_and_the_next_are_held_and_no_more() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(0, 200, 2):
            taken.append(number)
            yield number

    work = Doubling()
    with in_order(items(), work, AdaptiveBatcher(6)) as results:
        assert next(results) == 0
        deadline = time.monotonic() + 10
        while len(taken) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(taken) == 6
        assert work.passes == [[0, 2, 4]]


def test_the_next_batch_is_prepared_while_one_runs() -> None:
    running, prepared = threading.Event(), threading.Event()

    class Waiting(Doubling):
        def prepare(self, item: int) -> Prepared[int]:
            if item == 6:
                assert running.wait(10)
                prepared.set()
            return super().prepare(item)

        def run(self, batch: Sequence[int]) -> list[int]:
            running.set()
            assert prepared.wait(10)  # by another thread: this one is running a batch
            return super().run(batch)

    assert list(in_order([2, 4, 6, 8], Waiting(), AdaptiveBatcher(4))) == [4, 8, 12, 16]


@pytest.mark.parametrize(("waits", "ready"), [(10.0, True), (0.0, False)])
def test_a_batch_with_a_head_start_runs_when_the_next_one_is_prepared(waits: float, ready: bool) -> None:
    seen: list[bool] = []

    class Slow(Doubling):
        def prepare(self, item: int) -> Prepared[int]:
            if item == 6:
                time.sleep(0.2)
            return super().prepare(item)

        def run(self, batch: Sequence[int]) -> list[int]:
            seen.append(6 in self.prepared)
            return super().run(batch)

    assert list(in_order([2, 4, 6, 8], Slow(), AdaptiveBatcher(4), waits)) == [4, 8, 12, 16]
    assert seen == [ready, True]


def test_only_the_preparing_thread_is_left_one_core() -> None:
    before, seen = torch.get_num_threads(), list[int]()

    class Counting(Doubling):
        def prepare(self, item: int) -> Prepared[int]:
            seen.append(torch.get_num_threads())
            return super().prepare(item)

    torch.set_num_threads(3)
    try:
        assert list(in_order([2, 4, 6], Counting(), AdaptiveBatcher(4), 0.1)) == [4, 8, 12]
        assert list(in_order([2], Counting(), AdaptiveBatcher(4))) == [4]
        assert torch.get_num_threads() == 3
        assert seen == [1, 1, 1, 3]
    finally:
        torch.set_num_threads(before)


def test_a_model_that_takes_all_cores_gives_a_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10**6)
    assert head_start(torch.device("cpu")) > 0
    assert head_start(torch.device("cuda")) == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)
    assert head_start(torch.device("cpu")) == 0


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_grow_again() -> None:
    work, batcher = Doubling(memory=2), AdaptiveBatcher(16)
    assert list(in_order(range(0, 16, 2), work, batcher)) == list(range(0, 32, 4))
    assert work.passes == [[0, 2], [4, 6], [8, 10], [12, 14]]
    assert batcher.limit == 4
    work.memory = 100
    assert list(in_order(range(0, 400, 2), work, batcher)) == list(range(0, 800, 4))
    assert len(work.passes[-1]) > 2
    assert batcher.limit == 16


def test_an_item_too_large_by_itself_raises_in_its_turn_with_advice() -> None:
    class Large(Doubling):
        def run(self, batch: Sequence[int]) -> list[int]:
            if 4 in batch:
                raise RuntimeError("CUDA error: out of memory")
            return super().run(batch)

    results = in_order([2, 4, 6], Large(), AdaptiveBatcher(16))
    assert next(results) == 4
    with pytest.raises(
        torch.OutOfMemoryError, match=r"Item 1 of double_many\(\), of 2 tokens, does not fit into memory by itself.*smaller"
    ):
        next(results)
    assert list(results) == [12]


def test_an_error_names_its_item_and_loses_no_result() -> None:
    results = in_order([2, 4, -1, 6], Doubling(), AdaptiveBatcher(16))
    assert [next(results), next(results)] == [4, 8]
    with pytest.raises(InvalidRead, match=r"^Item 2 of double_many\(\): -1 is negative\.$"):
        next(results)
    assert list(results) == [12]


def test_of_a_batch_that_fails_each_item_has_its_own_result_or_error() -> None:
    class Faulty(Doubling):
        def run(self, batch: Sequence[int]) -> list[int]:
            if 4 in batch:
                raise InvalidRead("4 is at fault.")
            return super().run(batch)

    results = in_order([2, 4, 6], Faulty(), AdaptiveBatcher(16))
    assert next(results) == 4
    with pytest.raises(InvalidRead, match=r"Item 1 of double_many\(\): 4 is at fault"):
        next(results)
    assert list(results) == [12]


def test_an_error_of_the_items_own_code_is_raised_as_it_is_behind_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 2
        raise FileNotFoundError("cat.png")

    results = in_order(items(), Doubling(), AdaptiveBatcher(16))
    assert next(results) == 4
    with pytest.raises(FileNotFoundError, match=r"cat\.png") as raised:
        next(results)
    assert str(raised.value) == "cat.png"
    assert raised.value.__notes__ == ["Item 1 of double_many()."]
    assert list(results) == []


@pytest.mark.parametrize("ending", ["exhausted", "closed", "left", "dropped"])
def test_the_thread_ends_with_the_iterator(ending: str) -> None:
    results = in_order(range(0, 100, 2), Doubling(), AdaptiveBatcher(4))
    if ending == "left":
        with results:
            next(results)
    else:
        next(results)
    if ending == "exhausted":
        assert len(list(results)) == 49
    if ending == "closed":
        results.close()
    if ending == "dropped":
        del results
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == []


def test_closing_stops_an_endless_source_and_ends_the_iteration() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 2

    results = in_order(endless(), Doubling(), AdaptiveBatcher(1 << 30))
    results.close()
    assert list(results) == []
    started = threading.Event()

    def slow() -> Iterator[int]:
        while True:
            yield 2
            if started.is_set():
                time.sleep(0.001)
            else:
                started.set()

    running = in_order(slow(), Doubling(), AdaptiveBatcher(4))
    assert next(running) == 4
    running.close()
    assert threads() == []
