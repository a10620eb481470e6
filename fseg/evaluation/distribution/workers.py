"""Worker processes, each with its own models and device. They end when the run that started them ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import spawn
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from fseg.errors import WorkerDied
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.distribution import worker_process
from fseg.evaluation.run.job import Task
from fseg.evaluation.run.record_files import FOLDER, RecordFile
from fseg.evaluation.run.records import Record
from probe.errors import DeviceNotFound, ProbeError


def devices(device: str | None, workers: int) -> list[str | None]:
    """The device of each worker: with "cuda", one GPU each; otherwise the one that was named.

    Raises:
        DeviceNotFound: fewer GPUs than workers.
    """
    if device != "cuda" or workers == 1:
        return [device] * workers
    if torch.cuda.device_count() < workers:
        raise DeviceNotFound(f"{workers} workers were asked for, one on each GPU; this machine has {torch.cuda.device_count()}.")
    return [f"cuda:{number}" for number in range(workers)]


def threads_of_each(threads: int | None, workers: int) -> int:
    """The threads of each worker on the CPU; None: this process's, divided among them."""
    return threads or max(1, torch.get_num_threads() // workers)


def run_workers(
    task: Task,
    parts: Sequence[Sequence[Sample]],
    out: Path,
    lock: int,
    ready: Callable[[Mapping[str, str]], None],
    threads: int | None = None,
) -> Iterator[Record]:
    """Work in one process for each part; yields records once they are finished and written to the workers' files.

    Consume all records in one thread: on Linux the workers end with the thread that started them.

    Args:
        lock: the descriptor of the folder's lock. The workers hold it as well: the folder is free once the last of them has ended.
        ready: called with the names of the opened models, before the first image.
        threads: of each worker on the CPU; None: this process's, divided among them.

    Raises:
        WorkerDied: a process ended before its work did, or could not begin. Its finished images are kept.
    """
    threads = threads_of_each(threads, len(parts))
    workers: list[_Worker] = []
    life, ours = os.pipe()
    try:
        for number in range(len(parts)):
            workers.append(_Worker.start(number, life, lock))
        for worker, part, device in zip(workers, parts, devices(task.job.device, len(parts)), strict=True):
            worker.send((_run, (task, part, device, threads, out, worker.number)))
        opened = [worker.receive("ready") for worker in workers]
        ready(opened[0])
        for worker in workers:
            worker.send("begin")
        yield from _records(workers)
    finally:
        for worker in workers:
            worker.end()
        os.close(life)
        os.close(ours)


@dataclass(frozen=True)
class _Worker:
    """A worker process, seen from the run."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection

    @classmethod
    def start(cls, number: int, life: int, lock: int) -> _Worker:
        """Start a process that ends with this one, and that prepares its main module as `multiprocessing` does."""
        ours, theirs = multiprocessing.Pipe()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        numbers = [str(number) for number in (theirs.fileno(), os.getpid(), life)]
        # -P: modules in the file's folder must not shadow others of the same names.
        command = [sys.executable, *flags, "-P", worker_process.__file__, *numbers]
        # Block Ctrl-C until the process ignores it: during Python's start-up it would print a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), life, lock))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker = cls(number, process, ours)
        preparation = spawn.get_preparation_data(f"Worker-{number}")
        worker.send({key: value for key, value in preparation.items() if key != "authkey"})
        return worker

    def send(self, value: object) -> None:
        """Send a value to the process.

        Raises:
            WorkerDied: the process ended.
        """
        try:
            self.pipe.send(value)
        except OSError as error:
            raise self._died() from error

    def receive(self, kind: str) -> Any:
        """The next message of the process, which has to be of this kind.

        Raises:
            WorkerDied: the process ended, or reports that it cannot continue.
        """
        try:
            sent, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if sent != kind:
            raise WorkerDied(f"Worker {self.number} cannot go on. {value}")
        return value

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    def _died(self) -> WorkerDied:
        return WorkerDied(
            f"Worker {self.number} ended with exit code {self.process.wait()} (-9 is a kill, often for want of memory). "
            "What is finished is kept: start again to go on, perhaps with fewer --workers."
        )


def _records(workers: Sequence[_Worker]) -> Iterator[Record]:
    busy = {worker.pipe: worker for worker in workers}
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            record = busy[pipe].receive("record")
            if record is None:
                del busy[pipe]
            else:
                yield record


def _run(pipe: Connection, task: Task, samples: Sequence[Sample], device: str | None, threads: int, out: Path, number: int) -> None:
    """The main function of a worker: open the models, report them, wait for the start signal, then work."""
    torch.set_num_threads(threads)
    try:
        work = task.open(device)
        pipe.send(("ready", work.model_names()))
        pipe.recv()
        file = RecordFile(out / FOLDER / f"worker-{number}.jsonl")
        for record in work.records(samples, out / task.folder):
            file.append(record)
            pipe.send(("record", record))
        pipe.send(("record", None))
    except ProbeError as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))
