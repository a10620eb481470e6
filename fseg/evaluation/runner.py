"""Runs an evaluation: resumable after any end, over several processes, with the same figures whatever happened on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from tqdm import tqdm

from fseg import toml
from fseg.errors import ClusterNotFound, InvalidRecipe, RunMismatch
from fseg.evaluation.job import Job, Task, look_up, open_models, work
from fseg.evaluation.measure import headline
from fseg.evaluation.readers import DataSet, Sample, data_set
from fseg.evaluation.records import FOLDER, Record, RecordFile, cut_torn_lines, read_records
from fseg.evaluation.results import summarise, table
from fseg.evaluation.run_folder import MANIFEST, check_same, differences, locked, read_manifest, write_json
from fseg.evaluation.workers import MASKS, devices, run_workers
from fseg.files import check_writable, write_atomically
from fseg.recipe import Recipe

RESULTS = "results.json"
TABLE = "table.txt"


def evaluate(
    job: Job, out: Path, *, workers: int = 1, threads: int | None = None, retry_failed: bool = False, cluster: str | None = None
) -> dict[str, Any]:
    """Evaluate a job, or go on with it: images that have a record are not done again.

    Args:
        out: gets `manifest.json`, `records/*.jsonl`, `results.json`, `table.txt` and, if asked for, `masks/`.
        workers: processes with models of their own; one works in this process.
        threads: of each worker on the CPU; None: those of the machine, divided among the workers. Sums of floating-point numbers depend
            on how many threads share them, in their last bit: runs that have to agree in every pixel need the same number.
        retry_failed: do images that failed in an earlier run again.
        cluster: the address of a Ray cluster whose actors are the workers, "local" for one of this machine, started for the run; see
            `fseg.evaluation.ray_workers`. None: processes of this machine.

    Returns:
        what `results.json` holds: see `fseg.evaluation.results.summarise`.

    Raises:
        InvalidDataSet, MissingFiles, InvalidClasses, InvalidRecipe: before anything is done.
        OutputError, RunLocked, RunMismatch: the folder cannot be written, is in use, or holds another run.
        ClusterNotFound: Ray is not installed, or does not answer.
        WorkerDied: a process ended before its work did.
    """
    if (workers > 1 or cluster is not None) and not all(isinstance(model, (str, Path, NoneType)) for model in (job.backbone, job.sam)):
        raise InvalidRecipe(
            "Workers in other processes open models of their own. Give the backbone and the SAM by name or path, or use one worker of this process."
        )
    task = look_up(job)
    if cluster is None:
        devices(job.device, workers)
    elif find_spec("ray") is None:
        raise ClusterNotFound("Ray is not installed, which spreads an evaluation over a cluster: pip install 'fseg-llava[ray]'.")
    check_writable(out)
    with locked(out) as lock:
        folder = _Folder(out, task)
        cut_torn_lines(out)
        records = folder.records()
        if retry_failed:
            records = {image: record for image, record in records.items() if record.error is None}
        todo = [sample for sample in task.samples if sample.name not in records]
        if todo:
            if cluster is not None:
                finished = _on_cluster(task, todo, folder, cluster, workers, threads)
            elif workers == 1:
                finished = _alone(task, todo, folder, threads)
            else:
                finished = _together(task, todo, folder, workers, threads, lock)
            for record in _shown(task, records, finished):
                records[record.image] = record
        return folder.finish(list(records.values()))


class _Folder:
    """The folder of a run: what is in it, and whether that is of the same job."""

    def __init__(self, out: Path, task: Task) -> None:
        self.out, self.task = out, task
        self.manifest = read_manifest(out)
        if self.manifest is not None:
            check_same(out, {key: value for key, value in self.manifest.items() if key != "models"}, task.manifest())

    def begin(self, models: Mapping[str, str]) -> None:
        """Write down which models answer, or check that they are the same as before."""
        if self.manifest is None:
            self.manifest = {**self.task.manifest(), "models": dict(models)}
            write_json(self.out / MANIFEST, self.manifest)
        check_same(self.out, {"models": self.manifest["models"]}, {"models": dict(models)})

    def records(self) -> dict[str, Record]:
        """What is done, by image."""
        return read_records(self.out, self.task.declared.labels)

    def finish(self, records: Sequence[Record]) -> dict[str, Any]:
        """Write the results."""
        assert self.manifest is not None, "a run with a record has a manifest"
        return _write_results(self.out, self.manifest, self.task.declared, list(self.task.classes), self.task.job.rows, records)


def _write_results(
    out: Path,
    manifest: Mapping[str, Any],
    declared: DataSet,
    classes: Sequence[str],
    rows: Mapping[str, Recipe],
    records: Sequence[Record],
) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(json.dumps(summarise(manifest, declared, classes, rows, records)))  # tuples as the lists of JSON
    write_json(out / RESULTS, results)
    write_atomically(out / TABLE, lambda file: file.write(f"{table(results)}\n".encode()))
    return results


def _alone(task: Task, todo: Sequence[Sample], folder: _Folder, threads: int | None) -> Iterator[Record]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    sweep = open_models(task.job, task.job.device)
    folder.begin(sweep.segmenter.models())
    file = RecordFile(folder.out / FOLDER / "worker-0.jsonl")
    try:
        for record in work(task, sweep, todo, folder.out / MASKS):
            file.append(record)
            yield record
    finally:
        file.close()
        torch.set_num_threads(before)


def _together(task: Task, todo: Sequence[Sample], folder: _Folder, workers: int, threads: int | None, lock: int) -> Iterator[Record]:
    parts = [todo[number::workers] for number in range(min(workers, len(todo)))]
    return run_workers(task, parts, folder.out, lock, folder.begin, threads)


def _on_cluster(task: Task, todo: Sequence[Sample], folder: _Folder, address: str, workers: int, threads: int | None) -> Iterator[Record]:
    from fseg.evaluation.ray_workers import run_on_cluster  # Ray is an extra

    return run_on_cluster(task, todo, folder.out, address, workers, folder.begin, threads)


def _shown(task: Task, before: Mapping[str, Record], finished: Iterator[Record]) -> Iterator[Record]:
    """The records as they come, under a bar with the time left and the mIoU so far."""
    name, recipe = next(iter(task.job.rows.items()))
    fill = headline(task.declared, recipe)
    counts = [record.rows[name].counts[fill] for record in before.values() if record.error is None]
    running = sum(counts[1:], counts[0]) if counts else None
    with tqdm(total=len(task.samples), initial=len(before), unit="image", disable=None) as bar:
        for record in finished:
            if record.error is None:
                one = record.rows[name].counts[fill]
                running = one if running is None else running + one
                bar.set_postfix_str(f"mIoU {100 * running.mean_iou():.1f}", refresh=False)
            else:
                tqdm.write(f"failed  {record.image}: {record.error}", file=sys.stderr)
            bar.update()
            yield record


def merge(folders: Sequence[Path], root: Path, out: Path) -> dict[str, Any]:
    """Put the parts of a set that were evaluated by `--shard` together, and write the results of the whole.

    Args:
        root: of the data set, for its own class names.

    Raises:
        RunMismatch: a folder without a run, runs that differ in more than the part, or parts that are missing, unfinished or there twice.
    """
    manifests = [_manifest_of(folder) for folder in folders]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        differing = differences(_without_part(manifests[0]), _without_part(manifest))
        if differing:
            raise RunMismatch(f"{str(folder)!r} is no part of the run in {str(folders[0])!r}: {'; '.join(differing[:5])}.")
    shards = sorted(str(manifest["shard"]) for manifest in manifests)
    of = int(shards[0].split("/")[1])
    wanted = sorted(f"{number}/{of}" for number in range(1, of + 1))
    if shards != wanted:
        raise RunMismatch(f"The folders hold the parts {', '.join(shards)}; the whole is {', '.join(wanted)}, each once.")
    records: list[Record] = []
    for folder, manifest in zip(folders, manifests, strict=True):
        found = read_records(folder, manifest["labels"])
        if len(found) != manifest["images"]:
            raise RunMismatch(f"{str(folder)!r} has {len(found)} of its {manifest['images']} images. Finish it first: start it again.")
        records += found.values()
    first = manifests[0]
    whole = {**first, "shard": "1/1", "images": len(records), "data_fingerprint": "+".join(str(m["data_fingerprint"]) for m in manifests)}
    check_writable(out)
    rows = {name: Recipe.from_toml(toml.dumps(values)) for name, values in first["rows"].items()}
    return _write_results(out, whole, data_set(first["data_set"], root), [names[0] for names in first["classes"]], rows, records)


def _manifest_of(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise RunMismatch(f"{str(folder)!r} holds no run: there is no {MANIFEST} in it.")
    return manifest


def _without_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in ("shard", "images", "data_fingerprint")}
