"""Workers as Ray actors, on a cluster of machines. A dead worker is replaced, and its image is done again."""

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
"""So many workers may die on one image before it counts as failed, or in a row before they have opened the models."""


class Worker:
    """A worker with its own models on a device of the cluster. It writes no file of the run: its records and their files are sent back."""

    def __init__(self, task: Task, folder: Path, threads: int) -> None:
        with suppress(OSError):  # a machine without this folder can still be given absolute paths
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._task = task

    def open(self, expected: Mapping[str, str]) -> dict[str, str]:
        """Open the models, and return their names.

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
        return self._work.model_names()

    def do(self, sample: Sample) -> tuple[Record, dict[str, bytes]]:
        """Do an image: its record, and its files by name."""
        with TemporaryDirectory() as folder:
            (record,) = self._work.records([sample], Path(folder))
            return record, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


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
                sample, outcome = actors.next()
                if sample is None:
                    ready(outcome)
                    continue
                record, files = outcome
                for name, content in files.items():
                    _write(out / task.folder / name, content)
                file.append(record)
                yield record
        finally:
            file.close()
            actors.dismiss()


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


class _Actors:
    """The actors of a run, and the image that each works on."""

    def __init__(self, task: Task, samples: Sequence[Sample], size: int, threads: int) -> None:
        self.left = len(samples)
        self._needs = needs_of_workers(task.job.device, size, threads)
        self._new = lambda: ray.remote(Worker).options(**self._needs).remote(task, Path.cwd(), threads)
        self._size = size
        self._waiting = deque(samples)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Sample | None]] = {}
        self._deaths: Counter[str | None] = Counter()

    def next(self) -> tuple[Sample | None, Any]:
        """The next finished image, with what the worker made of it, or None with the models that a new worker opened."""
        while True:
            self._assign()
            (done,), _ = ray.wait(list(self._busy), num_returns=1)
            actor, sample = self._busy.pop(done)
            try:
                outcome = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, ProbeError):
                    raise WorkerDied(f"A worker cannot go on. {type(error.cause).__name__}: {error.cause}") from error
                raise
            except RayError as error:
                ray.kill(actor)  # one that cannot be reached may live: its image is done again elsewhere
                failed = self._lost(sample, error)
                if failed is None:
                    continue
                outcome = (failed, {})
            else:
                self._idle.append(actor)
            if sample is None:
                del self._deaths[None]
            else:
                self.left -= 1
            return sample, outcome

    def dismiss(self) -> None:
        """Kill all actors."""
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            ray.kill(actor)

    def _assign(self) -> None:
        """Replace dead actors while there is work for them, and give idle ones an image."""
        while len(self._idle) + len(self._busy) < min(self._size, self.left):
            actor = self._new()
            self._busy[actor.open.remote(versions())] = (actor, None)
        while self._idle and self._waiting:
            actor, sample = self._idle.pop(), self._waiting.popleft()
            self._busy[actor.do.remote(sample)] = (actor, sample)

    def _lost(self, sample: Sample | None, error: RayError) -> Record | None:
        """Put the image of a dead worker back in the queue; the record of a failure if that has happened too often."""
        name = sample.name if sample is not None else None
        self._deaths[name] += 1
        reason = str(error).strip().partition("\n")[0]
        if sample is None:
            if self._deaths[name] == ATTEMPTS:
                raise WorkerDied(
                    f"{ATTEMPTS} workers in a row ended before they had opened the models ({reason}), often for want of memory. "
                    "What is finished is kept: start again to go on, perhaps with fewer --workers."
                ) from error
            return None
        if self._deaths[name] == ATTEMPTS:
            return Record(sample.name, error=f"WorkerDied: {ATTEMPTS} workers ended while they did this image ({reason}).")
        self._waiting.appendleft(sample)
        return None
