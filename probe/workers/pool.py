"""Workers that do jobs: this process, or several processes of this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Generic, Protocol, TypeVar, cast

import torch

from probe.errors import ProbeError
from probe.workers.processes import WorkerProcess, devices, started, threads_of_each

Job = TypeVar("Job")
Message = TypeVar("Message")
JobOf = TypeVar("JobOf", contravariant=True)
MessageOf = TypeVar("MessageOf", covariant=True)


class Work(Protocol[JobOf, MessageOf]):
    """What a worker has opened, such as a model, and does jobs with."""

    def do(self, job: JobOf) -> Iterator[MessageOf]:
        """Do a job; yields messages as it goes on."""


Open = Callable[[str | None], Work[Job, Message]]
"""Opens a worker's work on a device; None: where it is by itself. To be sent to another process it has to be pickled."""


class Pool(Protocol[JobOf, MessageOf]):
    """Workers that are ready for jobs."""

    def do(self, jobs: Iterable[JobOf]) -> Iterator[MessageOf]:
        """Do jobs, several at a time; yields their messages as they come. Take them all before more jobs are given."""


class ThisProcess(Generic[Job, Message]):
    """A pool of one worker, which is this process."""

    def __init__(self, open_work: Open[Job, Message], device: str | None) -> None:
        self._open, self._device = open_work, device
        self._work: Work[Job, Message] | None = None

    def do(self, jobs: Iterable[Job]) -> Iterator[Message]:
        """Do jobs one after the other."""
        for job in jobs:
            self._work = self._work or self._open(self._device)
            yield from self._work.do(job)


@contextmanager
def this_process(open_work: Open[Job, Message], device: str | None, threads: int | None) -> Iterator[Pool[Job, Message]]:
    """A pool of one worker in this process, with so many threads for the block."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield ThisProcess(open_work, device)
    finally:
        torch.set_num_threads(before)


class _Processes(Generic[Job, Message]):
    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._workers = workers

    def do(self, jobs: Iterable[Job]) -> Iterator[Message]:
        waiting, idle = deque(jobs), deque(self._workers)
        busy: dict[Connection, WorkerProcess] = {}
        while waiting or busy:
            while waiting and idle:
                worker = idle.popleft()
                worker.send(waiting.popleft())
                busy[worker.pipe] = worker
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                done, message = cast("tuple[bool, Message]", busy[pipe].receive("message"))
                if done:
                    idle.append(busy.pop(pipe))
                else:
                    yield message


@contextmanager
def processes(
    open_work: Open[Job, Message], workers: int, device: str | None, threads: int | None, lock: int
) -> Iterator[Pool[Job, Message]]:
    """A pool of processes of this machine. With the device "cuda", each has a GPU of its own.

    Args:
        threads: of each worker on the CPU; None: this process's, divided among them.
        lock: the descriptor of a folder's lock, which the workers hold as well.

    Raises:
        DeviceNotFound: fewer GPUs than workers.
        WorkerDied: from `do`, if a process ended before its work did, or could not begin.
    """
    each = threads_of_each(threads, workers)
    with started(workers, lock) as ready:
        for worker, where in zip(ready, devices(device, workers), strict=True):
            worker.send((_serve, (open_work, where, each)))
        yield _Processes(ready)


def _serve(pipe: Connection, open_work: Open[Job, Message], device: str | None, threads: int) -> None:
    """The main function of a worker: open the work, then do the jobs that come until the run ends this process."""
    torch.set_num_threads(threads)
    try:
        work = open_work(device)
        while True:
            for message in work.do(pipe.recv()):
                pipe.send(("message", (False, message)))
            pipe.send(("message", (True, None)))
    except ProbeError as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))
