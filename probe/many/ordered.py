"""InOrder: the results of many items in their order, computed in batches while the next batch is prepared in a thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import torch

from probe.batcher import AdaptiveBatcher, out_of_memory
from probe.errors import ProbeError

Item = TypeVar("Item")
Value = TypeVar("Value")
Result = TypeVar("Result")
Given = TypeVar("Given", contravariant=True)
Advanced = TypeVar("Advanced", covariant=True)


_HEAD_START = 0.1
"""Seconds: longer than it takes to prepare a batch for a small model, and nothing beside what a large one computes."""


@dataclass(frozen=True)
class Prepared(Generic[Value]):
    """One item, ready to be run.

    Attributes:
        size: its tokens.
        kind: neighbours of equal kinds share batches; None: it runs alone.
    """

    value: Value
    size: int
    kind: Hashable | None


class Work(Protocol[Given, Value, Result]):
    """What is done with items."""

    name: str
    """The method's, for messages."""

    def prepare(self, item: Given) -> Prepared[Value]:
        """The item, ready to be run; called in another thread than `run`."""

    def run(self, batch: Sequence[Value]) -> list[Result]:
        """The results of several items of one kind, or of one."""


@dataclass(frozen=True)
class _Numbered(Generic[Value]):
    """An item's number among all, and what was prepared, or the error with which that failed."""

    index: int
    prepared: Prepared[Value] | Exception

    @property
    def kind(self) -> Hashable | None:
        return None if isinstance(self.prepared, Exception) else self.prepared.kind

    @property
    def size(self) -> int:
        return 0 if isinstance(self.prepared, Exception) else self.prepared.size


class _Source(Generic[Item, Value]):
    """Takes items from an iterable and prepares them, a batch at a time. One thread at a time asks it."""

    def __init__(self, items: Iterable[Item], prepare: Callable[[Item], Prepared[Value]], batcher: AdaptiveBatcher) -> None:
        self._items, self._prepare, self._batcher = iter(items), prepare, batcher
        self._taken, self._ahead = 0, deque[_Numbered[Value]]()
        self.stopped = threading.Event()

    def next_batch(self) -> list[_Numbered[Value]]:
        """The next items that share a batch as large as it may be; none at the end."""
        batch: list[_Numbered[Value]] = []
        while not self.stopped.is_set() and not self._is_full(batch):
            following = self._ahead.popleft() if self._ahead else self._next()
            if following is None:
                break
            if batch and not self._joins(batch, following):
                self._ahead.append(following)
                break
            batch.append(following)
        return batch

    def _is_full(self, batch: Sequence[_Numbered[Value]]) -> bool:
        """Whether no further item of any length joins a batch."""
        return bool(batch) and (batch[0].kind is None or len(batch) >= self._batcher.fitting(max(one.size for one in batch)))

    def _joins(self, batch: Sequence[_Numbered[Value]], following: _Numbered[Value]) -> bool:
        largest = max(one.size for one in (*batch, following))
        return following.kind == batch[0].kind and len(batch) < self._batcher.fitting(largest)

    def _next(self) -> _Numbered[Value] | None:
        index = self._taken
        self._taken += 1
        try:
            item = next(self._items)
        except StopIteration:
            return None
        except Exception as error:  # raised in its turn, behind the results of the items before it
            return _Numbered(index, error)
        try:
            return _Numbered(index, self._prepare(item))
        except Exception as error:
            return _Numbered(index, error)


@dataclass(frozen=True)
class Failure:
    """An item's error, to be raised in its turn, and the error that it was."""

    error: Exception
    cause: Exception | None


class _Batches(Generic[Item, Value, Result]):
    """Runs one batch after the other, each while the next is prepared."""

    def __init__(self, items: Iterable[Item], work: Work[Item, Value, Result], batcher: AdaptiveBatcher, head_start: float) -> None:
        self._work, self._batcher, self._head_start = work, batcher, head_start
        self._source = _Source(items, work.prepare, batcher)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"probe-{work.name}")
        self._preparing: Future[list[_Numbered[Value]]] | None = None
        self._batch: list[_Numbered[Value]] = []

    def stop(self) -> None:
        """Prepare no further item."""
        self._source.stopped.set()

    def close(self) -> None:
        """End the thread, and drop what it prepared."""
        self.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._batch.clear()
        self._preparing = None

    def advance(self) -> list[Result | Failure] | None:
        """What the next batch gives, or as much of it as fits into memory: none if less of it has to be tried. None: all items are done."""
        if not self._batch:
            if self._preparing is None and self._head_start:
                _leave_cores(self._executor)
            preparing = self._preparing or self._executor.submit(self._source.next_batch)
            self._batch = preparing.result()
            if not self._batch:
                return None
            self._preparing = self._executor.submit(self._source.next_batch)
            wait([self._preparing], self._head_start)
        largest = max(one.size for one in self._batch)
        batch = self._batch[: self._batcher.fitting(largest)]
        results = self._results(batch, largest)
        del self._batch[: len(results)]
        return results

    def _results(self, batch: list[_Numbered[Value]], largest: int) -> list[Result | Failure]:
        """For each item its result or its failure; none: fewer have to be tried."""
        values = [one.prepared.value for one in batch if isinstance(one.prepared, Prepared)]
        if len(values) < len(batch):  # an item that could not be prepared shares no batch
            return [_failure(one.index, one.prepared, self._work.name) for one in batch if isinstance(one.prepared, Exception)]
        try:
            return list(self._batcher.attempt(values, largest, self._work.run) or ())
        except Exception as error:  # whose traceback holds the batch's tensors: it is dropped before anything else runs
            if len(batch) == 1:
                return [_failure(batch[0].index, error, self._work.name, batch[0].size)]
        # One of them is at fault: alone each has its result, or says what is wrong with it.
        return [result for one in batch for result in self._results([one], one.size)]


class _Advancing(Protocol[Advanced]):
    """Batches of items, whatever these are."""

    def advance(self) -> Sequence[Advanced | Failure] | None: ...

    def close(self) -> None: ...


class InOrder(Iterator[Result]):
    """Results of items in their order. What `run_many` and `generate_many` return; a context manager.

    Nothing runs before the first result is asked for. From then on the items of one batch and of the next are held, and the results of one
    batch. A batch that does not fit into memory is halved.

    An item that fails raises in its turn, the results of the items before it having been given; the message has the item's number. Asking for
    the next result then goes on with the item after it. `close()` ends the thread that prepares items; so do the end of the items and
    leaving the `with` block.

    >>> encodings = (model.encode(image, question) for question in ("Is there a cat?", "Is there a dog?"))
    >>> with model.run_many(encodings, probe.Hidden(4, at=-1)) as traces:
    ...     next(traces)
    Trace(hidden states of layers 4 at -1; 1 x 210 tokens)
    """

    def __init__(self, batches: _Batches[Item, Value, Result]) -> None:
        self._batches: _Advancing[Result] = batches
        self._results = deque[Result | Failure]()
        self._closed = False
        weakref.finalize(self, batches.stop)  # an iterator that is dropped prepares nothing more

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        while not self._results:
            results = None if self._closed else self._batches.advance()
            if results is None:
                self.close()
                raise StopIteration
            self._results.extend(results)
        result = self._results.popleft()
        if isinstance(result, Failure):
            raise result.error from result.cause
        return result

    def close(self) -> None:
        """End the preparing thread, and drop what was prepared and not yet given."""
        self._closed = True
        self._batches.close()
        self._results.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def in_order(items: Iterable[Item], work: Work[Item, Value, Result], batcher: AdaptiveBatcher, head_start: float = 0.0) -> InOrder[Result]:
    """The results of `work` on items, in order, in batches as large as the batcher finds.

    Args:
        head_start: seconds for which a batch waits for the next one to be prepared, before it runs beside that.
    """
    return InOrder(_Batches(items, work, batcher, head_start))


def _leave_cores(executor: ThreadPoolExecutor) -> None:
    """Let torch use one core in the only thread of an executor, and as many as before in all others.

    If two threads have operators that start threads, there are more of these than cores. OpenMP then lets each sleep at the end of every
    operator, in the model's forward as well: a small model's answers took half as long again.
    """
    cores = torch.get_num_threads()
    executor.submit(_use_one_core).result()
    torch.set_num_threads(cores)  # a part of what it sets is the process's


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread's first call takes over the process's number, and would do so later
    torch.set_num_threads(1)


def head_start(device: torch.device) -> float:
    """The head start of a preparation before a model on this device computes; none where that leaves a core to it.

    A forward on the CPU shares its work evenly among its threads, and waits for the slowest: what runs beside it delays it by more than it takes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _HEAD_START if device.type == "cpu" and torch.get_num_threads() >= cores else 0.0


def _failure(index: int, error: Exception, name: str, size: int = 0) -> Failure:
    """The error with the item's number in its message; an error of the items' own code is left as it is, with a note."""
    where = f"Item {index} of {name}()"
    if isinstance(error, ProbeError):
        return Failure(type(error)(f"{where}: {error}"), error)
    if out_of_memory(error) and size:
        advice = (
            "Load the model in a smaller dtype, on a larger device or with device_map='auto', read fewer layers, or encode smaller images"
        )
        return Failure(
            torch.OutOfMemoryError(f"{where}, of {size:,} tokens, does not fit into memory by itself: {error}. {advice}."), error
        )
    error.add_note(f"{where}.")
    return Failure(error, error.__cause__ if isinstance(error.__cause__, Exception) else None)
