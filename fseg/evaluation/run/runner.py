"""Running an evaluation: over several processes, resumable after a kill, with the same figures as an undisturbed run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import TypeVar

import torch
from attrs import evolve
from tqdm import tqdm

from fseg.checks import check_int
from fseg.errors import ClusterNotFound, InvalidRecipe
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.distribution.workers import run_workers
from fseg.evaluation.measure import headline
from fseg.evaluation.report.results import write_results
from fseg.evaluation.report.summary import RunResults
from fseg.evaluation.run.content import check_unchanged
from fseg.evaluation.run.differences import check_same
from fseg.evaluation.run.job import Job, Task, task_of
from fseg.evaluation.run.manifest import MANIFEST, Manifest, Models, read_manifest
from fseg.evaluation.run.record_files import FOLDER, RecordFile, cut_torn_lines, read_records
from fseg.evaluation.run.records import Record
from fseg.evaluation.run.run_folder import check_ours
from fseg.evaluation.run.weights import Fingerprints, check_weights, hashed_meanwhile
from probe.disk.files import check_writable, clear_temporary, write_json
from probe.disk.folder_lock import locked
from probe.workers.processes import devices

Finished = TypeVar("Finished")


def evaluate(
    job: Job,
    out: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
) -> RunResults:
    """Evaluate a job, or continue it: images that have a record are not done again.

    Args:
        out: gets `manifest.json`, `records/*.jsonl`, `results.json`, `table.txt` and, if asked for, `masks/`.
        workers: processes, each with its own models; one works in this process.
        threads: of each worker on the CPU; None: those of the machine, divided among the workers. Sums of floating-point numbers depend
            on how many threads share them, in their last bit: runs that have to agree in every pixel need the same number.
        batch: so many images go through the language model together, in each worker: the vision tower and their part of the prompt, their
            questions, and what is read of the answers; None: found from the device. A run may go on with another one. What was said of
            threads holds here: on the CPU, the embedded model's figures were the same in every bit; in half precision, and on a GPU, runs
            that have to agree in every pixel need batch=1.
        retry_failed: do images that failed in an earlier run again.
        cluster: the address of a Ray cluster whose actors are the workers, "local" for one of this machine, started for the run; see
            `fseg.evaluation.distribution.ray_workers`. None: processes of this machine.

    Returns:
        the content of `results.json`.

    Raises:
        InvalidOption: `workers`, `threads` or `batch` is not a whole number of at least 1.
        InvalidDataSet, MissingFiles, InvalidClasses, InvalidRecipe: before anything is done.
        OutputError, RunLocked, RunMismatch: the folder cannot be written, is in use, or holds another run.
        ClusterNotFound: Ray is not installed, or does not answer.
        WorkerDied: a process ended before its work did.
    """
    task = task_of(job)

    def finish(manifest: Manifest, records: Sequence[Record]) -> RunResults:
        return write_results(out, manifest, task.declared, job.rows, records)

    return run(task, out, finish, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed, cluster=cluster)


def run(
    task: Task,
    out: Path,
    finish: Callable[[Manifest, Sequence[Record]], Finished],
    *,
    workers: int = 1,
    threads: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
) -> Finished:
    """Do a task, or continue it: `evaluate` for any work on images.

    Args:
        out: gets `manifest.json`, `records/*.jsonl` and the task's folder of files.
        finish: called with the manifest and all records, in no particular order, while the folder is locked; its result is returned.
        workers, threads, batch, retry_failed, cluster: see `evaluate`.

    Raises:
        InvalidOption, InvalidRecipe, OutputError, RunLocked, RunMismatch, ClusterNotFound, WorkerDied: see `evaluate`.
    """
    job = task.job
    check_int("workers", workers, at_least=1)
    if threads is not None:
        check_int("threads", threads, at_least=1)
    if batch is not None:
        check_int("batch", batch, at_least=1)
    task = replace(task, batch=batch)
    if (workers > 1 or cluster is not None) and not all(isinstance(model, (str, Path, NoneType)) for model in (job.backbone, job.sam)):
        raise InvalidRecipe(
            "Workers in other processes open their own models. Give the backbone and the SAM by name or path, or use one worker of this process."
        )
    if cluster is None:
        devices(job.device, workers)
    elif find_spec("ray") is None:
        raise ClusterNotFound("Ray is not installed, which spreads an evaluation over a cluster: pip install 'fseg-llava[ray]'.")
    check_same_run(out, task)  # before anything is written
    check_writable(out)
    with locked(out) as lock:
        for written in (out, out / FOLDER, out / task.folder):
            clear_temporary(written)
        folder = _Folder(out, task)
        records = folder.records()
        if retry_failed:
            records = {image: record for image, record in records.items() if record.error is None}
        todo = [sample for sample in task.samples if sample.name not in records]
        with hashed_meanwhile(job, out) as weights:
            if todo:
                pool = _Workers(workers, threads, cluster, lock, lambda models: folder.begin(models, weights()))
                for record in _with_progress_bar(task, records, pool.work(task, todo, out)):
                    records[record.image] = record
            else:
                folder.check_weights(weights())
        assert folder.manifest is not None, "a run with a record has a manifest"
        return finish(folder.manifest, list(records.values()))


def check_same_run(out: Path, task: Task) -> Manifest | None:
    """The manifest of a folder, checked to be of this task; None if nothing was run into it yet.

    Raises:
        OutputError, RunMismatch: the folder is not one of a run, or is of another run.
    """
    check_ours(out)
    manifest = read_manifest(out)
    if manifest is not None:
        check_same(out, manifest.without_models(), task.manifest().to_dict())
    return manifest


class _Folder:
    """The folder of a run: its content, checked to be of the same job."""

    def __init__(self, out: Path, task: Task) -> None:
        self.out, self.task = out, task
        self.manifest = check_same_run(out, task)

    def begin(self, models: Mapping[str, str], weights: Fingerprints) -> None:
        """Write the manifest with the models that were opened, or check that they are the same as before."""
        if self.manifest is None:
            self.manifest = evolve(self.task.manifest(), models=Models(**models, weights=weights))
            write_json(self.out / MANIFEST, self.manifest.to_dict())
        check_same(self.out, {"models": self._models().names()}, {"models": models})
        check_weights(self.out, self._models(), weights)

    def check_weights(self, weights: Fingerprints) -> None:
        """Check the weights of a finished run, those that this machine has: it may be another machine."""
        check_weights(self.out, self._models(), {kind: found for kind, found in weights.items() if found is not None})

    def _models(self) -> Models:
        models = self.manifest.models if self.manifest is not None else None
        assert models is not None, "a run with a record has a manifest with models"
        return models

    def records(self) -> dict[str, Record]:
        """The records so far, by image. An incomplete last line, left by a kill, is cut off."""
        cut_torn_lines(self.out)
        records = read_records(self.out, self.task.expected())
        check_unchanged(self.task.samples, records)
        return records


@dataclass(frozen=True)
class _Workers:
    """The workers of a run: this process, several processes, or the actors of a cluster.

    Attributes:
        begin: called with the names of the models that were opened, before the first image.
    """

    workers: int
    threads: int | None
    cluster: str | None
    lock: int
    begin: Callable[[Mapping[str, str]], None]

    def work(self, task: Task, todo: Sequence[Sample], out: Path) -> Iterator[Record]:
        """The records of images, each once it is finished and written to the folder's files."""
        if self.cluster is not None:
            from fseg.evaluation.distribution.ray_workers import run_on_cluster  # Ray is an extra

            return run_on_cluster(task, todo, out, self.cluster, self.workers, self.begin, self.threads)
        if self.workers == 1:
            return self._in_this_process(task, todo, out)
        parts = [todo[number :: self.workers] for number in range(min(self.workers, len(todo)))]
        return run_workers(task, parts, out, self.lock, self.begin, self.threads)

    def _in_this_process(self, task: Task, todo: Sequence[Sample], out: Path) -> Iterator[Record]:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            work = task.open(task.job.device)
            self.begin(work.model_names())
            with closing(RecordFile(out / FOLDER / "worker-0.jsonl")) as file:
                for record in work.records(todo, out / task.folder):
                    file.append(record)
                    yield record
        finally:
            torch.set_num_threads(before)


def _with_progress_bar(task: Task, before: Mapping[str, Record], finished: Iterator[Record]) -> Iterator[Record]:
    """The records as they come, with a progress bar that shows the mIoU so far, if the task counts."""
    name, recipe = next(iter(task.job.rows.items()))
    fill = headline(task.declared, recipe)
    counts = [record.rows[name].counts[fill] for record in before.values() if name in record.rows]
    running = sum(counts[1:], counts[0]) if counts else None
    with tqdm(total=len(task.samples), initial=len(before), unit="image", disable=None) as bar:
        for record in finished:
            if name in record.rows:
                one = record.rows[name].counts[fill]
                running = one if running is None else running + one
                bar.set_postfix_str(f"mIoU {100 * running.mean_iou():.1f}", refresh=False)
            elif record.error is not None:
                tqdm.write(f"failed  {record.image}: {record.error}", file=sys.stderr)
            bar.update()
            yield record
