"""Preparing what comes next in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prefetch(prepare: Callable[[Item], Prepared], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Future[Prepared]]]:
    """Each item with the future of `prepare(item)`, in order, while threads prepare the next ones.

    An error of `items` is raised after the items before it were yielded.

    Args:
        workers: the number of threads, and of items that are prepared ahead; at least one.

    >>> from probe.workers.prefetching import prefetch
    >>> [(item, future.result()) for item, future in prefetch(str.upper, ["a", "b", "c"], workers=2)]
    [('a', 'A'), ('b', 'B'), ('c', 'C')]
    """
    workers = max(1, workers)
    source = iter(items)
    ahead: deque[tuple[Item, Future[Prepared]]] = deque()
    source_error: Exception | None = None
    with ThreadPoolExecutor(workers) as pool:
        while True:
            try:
                missing = 0 if source_error else 1 + workers - len(ahead)
                for item in islice(source, missing):
                    ahead.append((item, pool.submit(prepare, item)))
            except Exception as error:  # raised once the items before it are yielded
                source_error = error
            if not ahead:
                break
            yield ahead.popleft()
    if source_error is not None:
        raise source_error


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one perhaps shorter. An error of `items` is raised after the items before it were yielded.

    >>> from probe.workers.prefetching import groups
    >>> list(groups("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    source, group = iter(items), list[Item]()
    try:
        for item in source:
            group.append(item)
            if len(group) == size:
                full, group = group, []
                yield full
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def succeeded(futures: Iterable[Future[Prepared]]) -> list[Prepared]:
    """The results of those that did not fail, once all are done."""
    return [future.result() for future in futures if future.exception() is None]
