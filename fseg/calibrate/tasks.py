"""The two passes of a calibration over its images, as tasks of `fseg.evaluation.run`: the language model's, then SAM's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import probe
from fseg.calibrate.observation import Observation, observe, reads_to_observe, save_observation
from fseg.calibrate.rows import band_distance, layers_of, refined_masks
from fseg.calibrate.scoring import best_names
from fseg.calls import Steps
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import check_size, measure, true_labels
from fseg.evaluation.run.content import Prepared
from fseg.evaluation.run.job import Job, Task, Work, open_sweep, records_of, records_together, task_of
from fseg.evaluation.run.records import Expected, Record
from fseg.evidence import Evidence
from fseg.pipeline import Segmenter, collect_evidence, segment_prompted, single_image
from fseg.recipe import Recipe
from fseg.sam.base import AnySam
from fseg.sam.loading import load_sam
from fseg.sweep import EmbeddedOnce
from probe.loading.devices import resolve_device


@dataclass(frozen=True)
class Observing(Task):
    """The model pass: what is kept of each image is written as `observations/<image>.safetensors`. No pixel is counted."""

    folder: ClassVar[str] = "observations"

    def open(self, device: str | None) -> Work:
        """The pass over the images, with the models opened on a device."""
        return _Observer(self, open_sweep(self.job, device).segmenter)

    def expected(self) -> Expected:
        """Records without rows."""
        return Expected({}, self.declared.labels, self.declared.background, frozenset(sample.name for sample in self.samples))


def observing_task(job: Job) -> Observing:
    """The model pass of a calibration; no image and no model is opened.

    Raises:
        InvalidDataSet, MissingFiles, InvalidClasses: see `task_of`.
    """
    return Observing(**_fields(task_of(job)))


def _fields(task: Task) -> dict[str, Any]:
    return {each.name: getattr(task, each.name) for each in fields(Task)}


@dataclass(frozen=True)
class _Observer:
    task: Observing
    segmenter: Segmenter

    @property
    def together(self) -> int:
        return self.segmenter.images_together(self.task.batch)

    def model_names(self) -> dict[str, str]:
        return self.segmenter.model_names()

    def records(self, samples: Iterable[Sample], files: Path) -> Iterator[Record]:
        recipe, names = self.segmenter.recipe, self.segmenter.checked_names(self.task.classes)
        reads = reads_to_observe(recipe)

        def count(sample: Sample, read: Prepared[probe.PreparedImages], *, together: probe.ImageBatch) -> Steps[Record]:
            original = single_image(read.image)
            check_size(sample, read.truth, (original.height, original.width))
            with self.segmenter.model.open(read.image, keep=reads, template=recipe.ask.template, together=together) as session:
                answers = yield from recipe.ask.steps(session, names)
                evidence = yield from collect_evidence(session, answers, reads)
            save_observation(files / f"{sample.name}.safetensors", observe(recipe, evidence))
            return Record(sample.name, true_labels(self.task.declared, read.truth))

        return records_together(self.segmenter, self.together, samples, count)


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one row for one image.

    Attributes:
        evidence: one entry for each class, without maps.
        distances: D~ of each class, which ranks overlapping masks; None for an absent one. NumPy arrays travel between processes by value.
    """

    evidence: tuple[Evidence, ...]
    distances: tuple[NDArray[np.float32] | None, ...]

    def with_distances(self) -> list[Evidence]:
        """The evidence with D~."""
        pairs = zip(self.evidence, self.distances, strict=True)
        return [e if values is None else replace(e, raw_distance=torch.from_numpy(values)) for e, values in pairs]


def prompts_of(observation: Observation, recipes: Mapping[str, Recipe]) -> dict[str, Prompts]:
    """The prompts that each recipe would give SAM, from what was kept of an image."""
    gram = observation.gram()
    return {name: _prompts(observation, gram, recipe) for name, recipe in recipes.items()}


def _prompts(observation: Observation, gram: Tensor, recipe: Recipe) -> Prompts:
    by_class = {e.name: e for e in reversed(observation.evidence)}  # of an absent class its first name
    distances: dict[str, NDArray[np.float32]] = {}
    if observation.present:
        distance, chosen = best_names(observation, band_distance(observation.distances, layers_of(recipe)))
        pair = (recipe.refine.alpha, recipe.refine.beta)
        (masks,) = refined_masks(distance, observation.attention[chosen], gram, [pair], recipe.refine)
        for index, values, mask in zip(chosen, distance, masks, strict=True):
            e = observation.present[index]
            by_class[e.name] = replace(recipe.prompt(replace(e, refined=mask.reshape(e.grid.shape))), refined=None)
            distances[e.name] = values.reshape(e.grid.shape).numpy()
    names = dict.fromkeys(e.name for e in observation.evidence)
    return Prompts(tuple(by_class[name] for name in names), tuple(distances.get(name) for name in names))


@dataclass(frozen=True)
class Finishing(Task):
    """SAM's pass over the images, for a few rows whose prompts are known. It opens no language model.

    Attributes:
        prompts: by the image's name, and for each by the row's name.
        models: the names of the models of the first pass.
    """

    prompts: Mapping[str, Mapping[str, Prompts]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    def open(self, device: str | None) -> Work:
        """The pass over the images, with SAM opened on a device."""
        (checkpoint,) = {recipe.sam.checkpoint for recipe in self.job.rows.values()}
        return _Finisher(self, load_sam(self.job.sam or checkpoint, device=resolve_device(device)))


def finishing_task(
    observed: Observing,
    rows: Mapping[str, Recipe],
    samples: Sequence[Sample],
    prompts: Mapping[str, Mapping[str, Prompts]],
    models: Mapping[str, str],
) -> Finishing:
    """SAM's pass of a calibration over the images that did not fail in the first one."""
    task = replace(observed, job=replace(observed.job, rows=rows), samples=tuple(samples), job_images=tuple(one.name for one in samples))
    return Finishing(**_fields(task), prompts=prompts, models=models)


@dataclass(frozen=True)
class _Finisher:
    task: Finishing
    sam: AnySam
    together = 1

    def model_names(self) -> dict[str, str]:
        return dict(self.task.models)

    def records(self, samples: Iterable[Sample], files: Path) -> Iterator[Record]:
        classes = tuple(self.task.classes)

        def count(sample: Sample, read: Prepared[Image.Image]) -> Record:
            sam = EmbeddedOnce(self.sam)
            results = {
                name: segment_prompted(
                    recipe, sam, read.image, classes, self.task.prompts[sample.name][name].with_distances(), self.task.models
                )
                for name, recipe in self.task.job.rows.items()
            }
            return measure(self.task.declared, sample, read.truth, results)

        return records_of(samples, lambda image: image, count)
