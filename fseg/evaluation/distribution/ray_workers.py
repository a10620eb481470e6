"""Workers as Ray actors, on a cluster of machines. A dead worker is replaced, and its images are done again."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from fseg.errors import RunMismatch, WorkerDied
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.run.differences import differences
from fseg.evaluation.run.job import Task
from fseg.evaluation.run.record_files import FOLDER, RecordFile
from fseg.evaluation.run.records import Record
from fseg.result import versions
from probe.disk.files import write_atomically
from probe.errors import ProbeError
from probe.workers.processes import threads_of_each
from probe.workers.ray_cluster import connected, needs_of_workers

ATTEMPTS = 3
"""So many workers may die on one image before it counts as failed, or in a row before they have opened the models.

Deaths among several images do not count: after one, each of these images is done alone, and fewer are done together.
"""


class Worker:
    """A worker with its own models on a device of the cluster. It writes no file of the run: its records and their files are sent back."""

    def __init__(self, task: Task, folder: Path, threads: int) -> None:
        with suppress(OSError):  # a machine without this folder can still be given absolute paths
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._task = task

    def open(self, expected: Mapping[str, str]) -> tuple[dict[str, str], int]:
        """Open the models; returns their names, and how many images the work takes at once.

        Args:
            expected: the versions of the machine that started the run.

        Raises:
            RunMismatch: this machine has others; the result would name the wrong ones.
            LoadError, DeviceNotFound, InvalidSam, InvalidRecipe: see `Task.open`.
        """
        differing = differences(expected, versions())
        if differing:
            raise RunMismatch(f"{socket.gethostname()} is not installed like the machine that started the run: {'; '.join(differing)}.")
        self._work = self._task.open(self._task.job.device)
        return self._work.model_names(), self._work.together

    def do(self, samples: Sequence[Sample]) -> tuple[list[Record], dict[str, bytes]]:
        """Do images: their records, and their files by name."""
        with TemporaryDirectory() as folder:
            records = list(self._work.records(samples, Path(folder)))
            return records, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def run_on_cluster(
    task: Task,
    samples: Sequence[Sample],
    out: Path,
    address: str,
    workers: int,
    ready: Callable[[Mapping[str, str]], None],
    threads: int | None = None,
) -> Iterator[Record]:
    """Work in actors of a Ray cluster; yields records once they are finished and written to the run's file.

    Only this process writes into `out`. The machines of the cluster read the data set and the models under the names that were given here.

    Args:
        address: HOST:PORT of the cluster's head, "auto" for the one that this machine belongs to, or "local" for one of this machine,
            which other machines do not reach, started for the run and ended with it, however it ends. A program that is connected
            to Ray already stays so, whatever the address.
        workers: actors; with the device "cuda", one on each GPU.
        ready: called with the names of the models that a worker has opened, before its first image.
        threads: of each worker on the CPU; None: this process's, divided among them.

    Raises:
        ClusterNotFound: no cluster answers at the address.
        DeviceNotFound: it has less than the workers need.
        WorkerDied: a worker could not begin, or not go on. What is finished is kept.
    """
    workers = min(workers, len(samples))
    threads = threads_of_each(threads, workers)
    with connected(address, workers * threads):
        actors = _Actors(task, samples, workers, threads)
        file = RecordFile(out / FOLDER / "cluster.jsonl")
        try:
            while actors.left:
                samples_done, outcome = actors.next()
                if not samples_done:
                    ready(outcome)
                    continue
                records, files = outcome
                for name, content in files.items():
                    _write(out / task.folder / name, content)
                for record in records:
                    file.append(record)
                    yield record
        finally:
            file.close()
            actors.dismiss()


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


class _Actors:
    """The actors of a run, and the images that each works on; none while it opens the models."""

    def __init__(self, task: Task, samples: Sequence[Sample], size: int, threads: int) -> None:
        self.left = len(samples)
        self._needs = needs_of_workers(task.job.device, size, threads)
        self._new = lambda: ray.remote(Worker).options(**self._needs).remote(task, Path.cwd(), threads)
        self._size, self._together, self._most = size, 1, len(samples)
        self._waiting, self._alone = deque(samples), set[str]()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, tuple[Sample, ...]]] = {}
        self._deaths: Counter[str | None] = Counter()

    def next(self) -> tuple[tuple[Sample, ...], Any]:
        """The next finished images, and what the worker made of them.

        Without images: the names of the models that a new worker has opened.
        """
        while True:
            self._assign()
            (done,), _ = ray.wait(list(self._busy), num_returns=1)
            actor, samples = self._busy.pop(done)
            try:
                outcome = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, ProbeError):
                    raise WorkerDied(f"A worker cannot go on. {type(error.cause).__name__}: {error.cause}") from error
                raise
            except RayError as error:
                ray.kill(actor)  # one that cannot be reached may live: its images are done again elsewhere
                failed = self._lost(samples, error)
                if failed is None:
                    continue
                outcome = ([failed], {})
            else:
                self._idle.append(actor)
            if not samples:
                del self._deaths[None]
                outcome, self._together = outcome
            self.left -= len(samples)
            return samples, outcome

    def dismiss(self) -> None:
        """Kill all actors."""
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            ray.kill(actor)

    def _assign(self) -> None:
        """Replace dead actors while images wait for them, and give idle ones images."""
        opening = sum(not samples for _, samples in self._busy.values())
        while len(self._idle) + len(self._busy) < self._size and len(self._idle) + opening < len(self._waiting):
            actor, opening = self._new(), opening + 1
            self._busy[actor.open.remote(versions())] = (actor, ())
        while self._idle and self._waiting:
            actor, samples = self._idle.pop(), self._taken()
            self._busy[actor.do.remote(samples)] = (actor, samples)

    def _taken(self) -> tuple[Sample, ...]:
        """The next images of one pass: no more than each worker's share. An image whose worker died while it had several is done alone."""
        most = min(self._together, self._most, -(-len(self._waiting) // self._size))
        taken = [self._waiting.popleft()]
        while self._waiting and len(taken) < most and not {taken[0].name, self._waiting[0].name} & self._alone:
            taken.append(self._waiting.popleft())
        return tuple(taken)

    def _lost(self, samples: tuple[Sample, ...], error: RayError) -> Record | None:
        """Put the images of a dead worker back in the queue; a failure's record if that has happened too often to one."""
        if len(samples) > 1:
            self._most = len(samples) // 2
            self._alone |= {sample.name for sample in samples}
            self._waiting.extendleft(reversed(samples))
            return None
        name = samples[0].name if samples else None
        self._deaths[name] += 1
        reason = str(error).strip().partition("\n")[0]
        if name is None:
            if self._deaths[name] == ATTEMPTS:
                raise WorkerDied(
                    f"{ATTEMPTS} workers in a row ended before they had opened the models ({reason}), often for want of memory. "
                    "What is finished is kept: start again to go on, perhaps with fewer --workers."
                ) from error
            return None
        if self._deaths[name] == ATTEMPTS:
            return Record(name, error=f"WorkerDied: {ATTEMPTS} workers ended while they did this image ({reason}).")
        self._waiting.extendleft(samples)
        return None
