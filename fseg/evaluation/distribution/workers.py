"""Worker processes, each with its own models and device. They end when the run that started them ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

import torch

from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.run.job import Task
from fseg.evaluation.run.record_files import FOLDER, RecordFile
from fseg.evaluation.run.records import Record
from probe.errors import ProbeError
from probe.workers.processes import WorkerProcess, devices, started, threads_of_each


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
    with started(len(parts), lock) as workers:
        for worker, part, device in zip(workers, parts, devices(task.job.device, len(parts)), strict=True):
            worker.send((_run, (task, part, device, threads, out, worker.number)))
        opened = [worker.receive("ready") for worker in workers]
        ready(cast("Mapping[str, str]", opened[0]))
        for worker in workers:
            worker.send("begin")
        yield from _records(workers)


def _records(workers: Sequence[WorkerProcess]) -> Iterator[Record]:
    busy = {worker.pipe: worker for worker in workers}
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            record = cast("Record | None", busy[pipe].receive("record"))
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
