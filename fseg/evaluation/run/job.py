"""The job of an evaluation, and the work on its images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

from attrs import evolve
from PIL import Image
from torch import nn

import probe
from fseg.calls import Steps, after, complete_together
from fseg.checks import LARGEST, check_int, shown
from fseg.errors import InvalidDataSet, InvalidRecipe, OutputError
from fseg.evaluation.datasets.class_lists import class_list
from fseg.evaluation.datasets.declarations import DataSet, data_set
from fseg.evaluation.datasets.label_maps import write_mask
from fseg.evaluation.datasets.readers import Sample, check_complete, read_index
from fseg.evaluation.measure import fills, headline, measure, predictions
from fseg.evaluation.run.content import Prepared, PreparedImage, names_fingerprint, prepare
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Expected, Record
from fseg.pipeline import Segmenter
from fseg.plugins import import_named
from fseg.recipe import Recipe
from fseg.result import versions
from fseg.sam.base import AnySam
from fseg.sweep import Sweep
from probe.workers.prefetching import groups, prefetch, succeeded

_THREADS = 2
"""Threads that open and resize the next images while the model works on one."""


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a set, for as many machines; `number` counts from 1.

    Raises:
        InvalidDataSet: there is no such part.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.number, self.of))
        if not numbers or not 1 <= self.number <= self.of <= LARGEST:
            raise _no_such_part(f"{shown(self.number)}/{shown(self.of)}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A part written as "2/8", the second of eight.

        Raises:
            InvalidDataSet: it is not written so, or there is no such part.
        """
        written = re.fullmatch(r"([0-9]{1,19})/([0-9]{1,19})", text)
        if written is None:
            raise _no_such_part(text)
        return cls(int(written[1]), int(written[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def _no_such_part(text: str) -> InvalidDataSet:
    return InvalidDataSet(f"No part {shown(text)} of a data set: write 2/8 for the second of eight; parts count from 1.")


@dataclass(frozen=True)
class Job:
    """An evaluation.

    Attributes:
        data_set, root: its name, and the folder that holds its tree.
        rows: recipes by name. They share the models and their forwards (see `fseg.sweep`).
        class_list: "benchmark", "natural" or a file.
        backbone, sam, device, dtype: as `Segmenter` takes them. For several workers names and paths, for one also loaded objects.
        limit: only the first so many images.
        shard: which part of these images; part k of n takes images k, k + n, ...
        allow_missing: go on where files of the set are missing.
        save_masks: keep the label maps as PNGs; of a job with one row.
        imports: modules and .py files that register the recipes' fusions (see `fseg.plugins`); every worker imports them.

    Raises:
        InvalidOption: a limit that is not a whole number of at least 1.
    """

    data_set: str
    root: Path
    rows: Mapping[str, Recipe]
    class_list: str = "benchmark"
    backbone: str | Path | probe.Probe | None = None
    sam: str | Path | nn.Module | AnySam | None = None
    device: str | None = None
    dtype: str | None = None
    limit: int | None = None
    shard: Shard = Shard()
    allow_missing: bool = False
    save_masks: bool = False
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_int("limit", self.limit, at_least=1)


class Work(Protocol):
    """The work on the images of a task, with its models opened."""

    @property
    def together(self) -> int:
        """How many images share passes of the model."""

    def model_names(self) -> dict[str, str]:
        """The names of the models, as `Segmenter.model_names` gives them."""

    def records(self, samples: Iterable[Sample], files: Path) -> Iterator[Record]:
        """The record of each image, in order; one that fails yields a record with its error, and the others continue.

        Args:
            files: the folder for the files of images; those of an image are written before its record is yielded.

        Raises:
            OutputError: a file cannot be written.
        """


@dataclass(frozen=True)
class Task:
    """A job with the files that it needs. Here it evaluates; a subclass may do other work on the images (see `fseg.calibrate`).

    Attributes:
        classes: for each class the names that it is asked about by.
        samples: the images to do, in order.
        job_images: the names of all images of the job, those of its other parts included.
        missing: how many files of the set are not there.
        batch: how many images an evaluation runs together; None: found from the device. It is not part of the run.
    """

    job: Job
    declared: DataSet
    classes: Mapping[str, tuple[str, ...]]
    samples: tuple[Sample, ...]
    job_images: tuple[str, ...]
    missing: int
    batch: int | None = None

    folder: ClassVar[str] = "masks"
    """The folder of the run that holds the files of images."""

    def open(self, device: str | None) -> Work:
        """The work on the images, with the models opened on a device.

        Raises:
            ImportFailed, LoadError, DeviceNotFound, InvalidSam, InvalidRecipe: see `open_sweep`.
        """
        return _Evaluation(self, open_sweep(self.job, device))

    def expected(self) -> Expected:
        """What the records of the run have to fit."""
        rows = {name: fills(self.declared, recipe) for name, recipe in self.job.rows.items()}
        return Expected(rows, self.declared.labels, self.declared.background, frozenset(sample.name for sample in self.samples))

    def manifest(self) -> Manifest:
        """What the run evaluates; its models are known once a worker has opened them."""
        return Manifest(
            data_set=self.declared.name,
            labels=self.declared.labels,
            class_list=self.job.class_list,
            classes=tuple((name, *names) for name, names in self.classes.items()),
            rows={name: recipe.to_dict() for name, recipe in self.job.rows.items()},
            asked_models={"backbone": _named(self.job.backbone), "sam": _named(self.job.sam), "dtype": self.job.dtype},
            limit=self.job.limit,
            shard=str(self.job.shard),
            save_masks=self.job.save_masks,
            missing_files=self.missing,
            images=len(self.samples),
            set_images=len(self.job_images),
            set_names=names_fingerprint(self.job_images),
            versions=versions(),
        )


def _named(model: object) -> str | None:
    """The name of a model that replaces the recipe's."""
    return None if model is None else str(model) if isinstance(model, (str, Path)) else getattr(model, "name", type(model).__name__)


def task_of(job: Job) -> Task:
    """The task of a job: its files and classes. No image and no model is opened.

    Raises:
        InvalidRecipe: there is no recipe, or masks of several rows are to be saved.
        InvalidDataSet, MissingFiles, InvalidClasses: see `fseg.evaluation.datasets.readers` and `class_lists`.
    """
    if not job.rows:
        raise InvalidRecipe("An evaluation needs a recipe, and none was given.")
    if job.save_masks and len(job.rows) != 1:
        raise InvalidRecipe(
            f"The label maps of {len(job.rows)} rows would overwrite each other. Save those of one recipe (save_masks), or none."
        )
    declared = data_set(job.data_set, job.root)
    classes = class_list(declared, job.class_list)
    index = read_index(declared, job.root)
    check_complete(index, allow_missing=job.allow_missing)
    whole = index.samples[: job.limit]
    samples = whole[job.shard.number - 1 :: job.shard.of]
    if not samples:
        raise InvalidDataSet(f"Part {job.shard} of {len(whole)} images is empty. Make fewer parts.")
    return Task(job, declared, classes, samples, tuple(sample.name for sample in whole), len(index.missing))


def open_sweep(job: Job, device: str | None) -> Sweep:
    """The job's rows as a sweep, with its models opened on a device.

    Raises:
        ImportFailed: the job's imports fail here.
        LoadError, DeviceNotFound, InvalidSam, InvalidRecipe: see `Segmenter` and `Sweep`.
    """
    import_named(job.imports)
    first = next(iter(job.rows.values()))
    return Sweep(Segmenter(first, backbone=job.backbone, sam=job.sam, device=device, dtype=job.dtype), job.rows)


@dataclass(frozen=True)
class _Evaluation:
    """Segmenting and counting the images of a task."""

    task: Task
    sweep: Sweep

    @property
    def together(self) -> int:
        return self.sweep.segmenter.images_together(self.task.batch)

    def model_names(self) -> dict[str, str]:
        return self.sweep.segmenter.model_names()

    def records(self, samples: Iterable[Sample], files: Path) -> Iterator[Record]:
        return records_together(self.sweep.segmenter, self.together, samples, partial(self._count, files=files))

    def _count(self, sample: Sample, read: Prepared[probe.PreparedImages], *, together: probe.ImageBatch, files: Path) -> Steps[Record]:
        results = yield from self.sweep.steps(read.image, self.task.classes, together=together)
        record = measure(self.task.declared, sample, read.truth, results)
        if self.task.job.save_masks:
            (result,) = results.values()
            labels = predictions(self.task.declared, result)[headline(self.task.declared, result.recipe)]
            write_mask(files / f"{sample.name}.png", labels, sample.values)
        return record


class CountImage(Protocol):
    """The work on one image."""

    def __call__(self, sample: Sample, read: Prepared[probe.PreparedImages], *, together: probe.ImageBatch) -> Steps[Record]:
        """The record of an image; `together`: the images of its batch."""


def records_together(segmenter: Segmenter, batch: int, samples: Iterable[Sample], count: CountImage) -> Iterator[Record]:
    """What `records_of` yields, of images whose calls of the model share passes, so many at a time."""
    for group in groups(prefetch(partial(prepare, segmenter.model.prepare), samples, max(_THREADS, batch)), batch):
        together = probe.ImageBatch([read.image for read in succeeded(prepared for _, prepared in group)])
        work = [after(prepared, partial(_with_content, partial(count, sample, together=together))) for sample, prepared in group]
        for (sample, _), made in zip(group, complete_together(work), strict=True):
            yield _record_of(sample, made)


def _with_content(count: Callable[[Prepared[PreparedImage]], Steps[Record]], read: Prepared[PreparedImage]) -> Steps[Record]:
    """The record that `count` makes of an image, with the hashes of its files."""
    record = yield from count(read)
    return evolve(record, content=read.content)


def records_of(
    samples: Iterable[Sample],
    prepare_image: Callable[[Image.Image], PreparedImage],
    count: Callable[[Sample, Prepared[PreparedImage]], Record],
) -> Iterator[Record]:
    """The record that `count` makes of each image, in order, with the hashes of its files, while threads read the next images.

    Raises:
        OutputError: a file of an image cannot be written.
    """
    for sample, prepared in prefetch(partial(prepare, prepare_image), samples, _THREADS):
        made: Record | Exception
        try:
            read = prepared.result()
            made = evolve(count(sample, read), content=read.content)
        except Exception as error:
            made = error
        yield _record_of(sample, made)


def _record_of(sample: Sample, made: Record | Exception) -> Record:
    """What was made of an image; where it failed, a record with the error: one bad image must not stop the others.

    Raises:
        OutputError: a file of the image cannot be written.
    """
    if isinstance(made, OutputError):
        raise made
    return Record(sample.name, error=f"{type(made).__name__}: {made}") if isinstance(made, Exception) else made
