"""Workers that do jobs as Ray actors, on a cluster of machines. A dead worker is replaced, and its job is done again."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from probe.errors import ProbeError, WorkerDied
from probe.workers.pool import Job, Message, Open, Pool, Work
from probe.workers.processes import threads_of_each
from probe.workers.ray_cluster import connected, needs_of_workers

ATTEMPTS = 3
"""So many workers may die on one job before the run ends."""


class Actor(Generic[Job, Message]):
    """A worker with its own model on a device of the cluster."""

    def __init__(self, open_work: Open[Job, Message], device: str | None, folder: Path, threads: int) -> None:
        with suppress(OSError):  # a machine without this folder can still be given absolute paths
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._open, self._device = open_work, device
        self._work: Work[Job, Message] | None = None

    def do(self, job: Job, versions: Callable[[], Mapping[str, str]], expected: Mapping[str, str]) -> list[Message]:
        """Do a job.

        Args:
            versions: gives those of this machine.
            expected: those of the machine that started the run.

        Raises:
            WorkerDied: the two differ; the result would name the wrong ones.
        """
        if versions() != expected:
            raise WorkerDied(f"{socket.gethostname()} has {versions()}, the run was started with {expected}. Install the same.")
        self._work = self._work or self._open(self._device)
        return list(self._work.do(job))


class _Actors(Generic[Job, Message]):
    def __init__(self, new: Callable[[], Any], size: int, versions: Callable[[], Mapping[str, str]]) -> None:
        self._new, self._size, self._versions = new, size, versions
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int, Job]] = {}

    def do(self, jobs: Iterable[Job]) -> Iterator[Message]:
        waiting, deaths = deque(enumerate(jobs)), Counter[int]()
        while waiting or self._busy:
            while waiting and len(self._busy) < self._size:
                actor, (number, job) = self._idle.pop() if self._idle else self._new(), waiting.popleft()
                self._busy[actor.do.remote(job, self._versions, self._versions())] = (actor, number, job)
            (done,), _ = ray.wait(list(self._busy), num_returns=1)
            actor, number, job = self._busy.pop(done)
            try:
                messages = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, ProbeError):
                    raise WorkerDied(f"A worker cannot go on. {type(error.cause).__name__}: {error.cause}") from error
                raise
            except RayError as error:
                ray.kill(actor)
                deaths[number] += 1
                if deaths[number] == ATTEMPTS:
                    reason = str(error).strip().partition("\n")[0]
                    raise WorkerDied(
                        f"{ATTEMPTS} workers ended over one job ({reason}), often for want of memory. What is finished is kept."
                    ) from error
                waiting.appendleft((number, job))
                continue
            self._idle.append(actor)
            yield from messages

    def dismiss(self) -> None:
        """Kill all actors."""
        for actor in (*self._idle, *(actor for actor, _, _ in self._busy.values())):
            ray.kill(actor)


@contextmanager
def actors(
    open_work: Open[Job, Message],
    workers: int,
    device: str | None,
    threads: int | None,
    address: str,
    versions: Callable[[], Mapping[str, str]],
) -> Iterator[Pool[Job, Message]]:
    """A pool of actors of a Ray cluster. The messages of a job come when it is done.

    Args:
        address: as `probe.workers.ray_cluster.connected` takes it.
        threads: of each worker on the CPU; None: this process's, divided among them.
        versions: gives the versions of what is installed, which have to be the same on all machines.

    Raises:
        ClusterNotFound: no cluster answers at the address.
        DeviceNotFound: it has less than the workers need.
        WorkerDied: from `do`, if a worker cannot go on.
    """
    each = threads_of_each(threads, workers)
    with connected(address, workers * each):
        needs = needs_of_workers(device, workers, each)
        pool = _Actors[Job, Message](
            lambda: ray.remote(Actor).options(**needs).remote(open_work, device, Path.cwd(), each), workers, versions
        )
        try:
            yield pool
        finally:
            pool.dismiss()
