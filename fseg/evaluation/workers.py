"""Several processes, each with the models on a device of its own. None of them outlives the run that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import torch

from fseg.errors import WorkerDied
from fseg.evaluation.job import Task, open_models, work
from fseg.evaluation.readers import Sample
from fseg.evaluation.records import FOLDER, Record, RecordFile
from probe.errors import DeviceNotFound, ProbeError

MASKS = "masks"


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


class Lock:
    """A run's lock in the hands of a worker: the folder is free when the last of them is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)


def _received(sent: Any) -> Lock:
    return Lock(sent.detach())


def run_workers(
    task: Task,
    parts: Sequence[Sequence[Sample]],
    out: Path,
    lock: int,
    ready: Callable[[Mapping[str, str]], None],
    threads: int | None = None,
) -> Iterator[Record]:
    """Work in one process for each part; records come as they are finished, and are in the workers' files by then.

    Args:
        lock: the descriptor of the folder's lock.
        ready: is told which models the workers have opened, before the first image.
        threads: of each worker on the CPU; None: this process's, divided among them.

    Raises:
        WorkerDied: a process ended before its work did, or could not begin. Its finished images are kept.
    """
    context = multiprocessing.get_context("spawn")
    threads = threads_of_each(threads, len(parts))
    workers: dict[Connection, Any] = {}
    try:
        for number, (part, device) in enumerate(zip(parts, devices(task.job.device, len(parts)), strict=True)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_run, args=(task, part, device, threads, out, number, theirs, Lock(lock)))
            process.start()
            theirs.close()
            workers[ours] = process
        opened = [_receive(pipe, process, "ready") for pipe, process in workers.items()]
        ready(opened[0])
        for pipe in workers:
            pipe.send("begin")
        yield from _records(workers)
    finally:
        for pipe, process in workers.items():
            pipe.close()
            process.terminate()
            process.join()


def _records(workers: Mapping[Connection, Any]) -> Iterator[Record]:
    busy = dict(workers)
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            record = _receive(pipe, busy[pipe], "record")
            if record is None:
                del busy[pipe]
            else:
                yield record


def _receive(pipe: Connection, process: Any, kind: str) -> Any:
    try:
        said, value = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise WorkerDied(
            f"{process.name} ended with exit code {process.exitcode} (-9 is a kill, often for want of memory). "
            "What is finished is kept: start again to go on, perhaps with fewer --workers."
        ) from error
    if said != kind:
        raise WorkerDied(f"{process.name} cannot go on. {value}")
    return value


def _run(
    task: Task, samples: Sequence[Sample], device: str | None, threads: int, out: Path, number: int, pipe: Connection, lock: Lock
) -> None:
    """A worker's life: open the models, say so, wait for the word, then work."""
    assert lock.descriptor >= 0, "held until this process ends"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that started us hears it, and ends us
    begin = threading.Event()
    threading.Thread(target=_listen, args=(pipe, begin), daemon=True).start()
    torch.set_num_threads(threads)
    try:
        sweep = open_models(task.job, device)
        pipe.send(("ready", sweep.segmenter.models()))
        begin.wait()
        file = RecordFile(out / FOLDER / f"worker-{number}.jsonl")
        for record in work(task, sweep, samples, out / MASKS):
            file.append(record)
            pipe.send(("record", record))
        pipe.send(("record", None))
    except ProbeError as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _listen(pipe: Connection, begin: threading.Event) -> None:
    """Wait for the word to begin, then for the end of the run that started this process, however it ends: a killed one says nothing."""
    try:
        pipe.recv()
        begin.set()
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
