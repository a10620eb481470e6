"""`calibrate`: from a backbone and images with ground truth to a recipe, with its figures and how sure they are."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from attrs import frozen
from tqdm import tqdm

from fseg.calibrate.choice import Candidate, Confidence, best_of_bands, best_of_layers, choose, finalists
from fseg.calibrate.observation import Observation, check_fusion, load_observation
from fseg.calibrate.rows import Row, Thresholds
from fseg.calibrate.scoring import Scores
from fseg.calibrate.tasks import Observing, finishing_task, observing_task, prompts_of
from fseg.errors import InvalidDataSet, InvalidTruth
from fseg.evaluation.datasets.label_maps import read_truth
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import headline, true_labels
from fseg.evaluation.run.content import data_fingerprint
from fseg.evaluation.run.job import Job, Task
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Record
from fseg.evaluation.run.runner import check_same_run, run
from fseg.evaluation.run.weights import CACHE
from fseg.fusion_methods.distance import ALPHA, BETA
from fseg.labels.metric import Counts, stack
from fseg.recipe import Recipe
from probe.disk import strict_json
from probe.disk.files import check_writable

OBSERVED = "observed"
"""The folder of the model pass, in the folder of the calibration."""


@frozen
class Finalist:
    """A row that went through SAM.

    Attributes:
        candidate: the row, with its mIoU of cells before SAM.
        miou: with SAM, as `fseg eval` counts it.
    """

    candidate: Candidate
    miou: float


@frozen
class Calibration:
    """The outcome of a calibration.

    Attributes:
        recipe: the recipe that won.
        finalists: the rows that went through SAM, best first.
        confidence: how sure the first place is.
        layers: the best row of each layer alone, before SAM.
        bands: the mIoU of cells of each band with its best alpha and beta, before SAM.
        rows: how many rows were scored.
        images: how many images were counted.
        failures: the errors of the others, by image.
        manifest: of the model pass: the data set and the models.
        data_fingerprint: a hash of the images and their ground truth.
    """

    recipe: Recipe
    finalists: tuple[Finalist, ...]
    confidence: Confidence
    layers: tuple[Candidate, ...]
    bands: Mapping[tuple[int, int], float]
    rows: int
    images: int
    failures: Mapping[str, str]
    manifest: Manifest
    data_fingerprint: str


def calibrate(
    job: Job,
    folder: Path,
    name: str,
    *,
    thresholds: Thresholds | None = None,
    workers: int = 1,
    threads: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
) -> Calibration:
    """Find layers, alpha and beta, or continue to.

    The language model reads each image once. All rows, bands of layers by alpha by beta, are scored by their refined masks (see
    `fseg.calibrate.scoring`), and the best few go through SAM.

    Args:
        job: the images, and one recipe whose layers, alpha and beta are looked for; its own do not matter.
        folder: of the calibration. It keeps what was read of each image, so that other thresholds need no second model pass.
        name: of the recipe that is made.
        thresholds: the values of alpha and beta that are tried. None: `fseg.calibrate.rows` has them.
        workers, threads, batch, retry_failed, cluster: see `fseg.evaluation.run.runner.evaluate`.

    Raises:
        InvalidRecipe: the recipe's fusion cannot be calibrated.
        MissingFiles, InvalidDataSet: there is no ground truth, no class in any of it, or no class to which the model says yes.
        OutputError, RunLocked, RunMismatch, ClusterNotFound, WorkerDied: see `evaluate`.
    """
    (recipe,) = job.rows.values()
    check_fusion(recipe)
    neutral = Row((0, 0), ALPHA, BETA).of(recipe, name)  # every model has a first layer, and no value of the recipe shall matter
    job = replace(job, rows={name: neutral})
    task = observing_task(job)
    if check_same_run(folder / OBSERVED, task) is None:
        _check_has_classes(task)
    options = _Options(workers, threads, batch, retry_failed, cluster)
    manifest, records = options.run(task, folder / OBSERVED)
    samples, failures = _succeeded(task, records)
    observations = folder / OBSERVED / task.folder
    scores = _scored(task, samples, observations, thresholds or Thresholds())
    rows = {str(one.row): one for one in finalists(scores)}
    base = _with_models(job)
    recipes = {row: one.row.of(base, name) for row, one in rows.items()}
    finished = _finish(task, samples, observations, folder, recipes, manifest, options)
    counts = _counted(finished, headline(task.declared, base))
    ranked, confidence = choose({row: counts[row] for row in rows})
    return Calibration(
        recipe=recipes[ranked[0]],
        finalists=tuple(Finalist(rows[row], counts[row].total().mean_iou()) for row in ranked),
        confidence=confidence,
        layers=tuple(best_of_layers(scores)),
        bands=best_of_bands(scores),
        rows=len(scores.bands) * len(scores.pairs),
        images=len(counts[ranked[0]].truth),
        failures=failures | {record.image: record.error for record in finished if record.error is not None},
        manifest=manifest,
        data_fingerprint=data_fingerprint(records),
    )


@dataclass(frozen=True)
class _Options:
    """How the passes are run; see `fseg.evaluation.run.runner.evaluate`."""

    workers: int
    threads: int | None
    batch: int | None
    retry_failed: bool
    cluster: str | None

    def run(self, task: Task, out: Path) -> tuple[Manifest, list[Record]]:
        """The manifest of a pass, and its records in the order of the images."""
        places = {sample.name: place for place, sample in enumerate(task.samples)}

        def finish(manifest: Manifest, records: Sequence[Record]) -> tuple[Manifest, list[Record]]:
            return manifest, sorted(records, key=lambda record: places[record.image])

        return run(
            task,
            out,
            finish,
            workers=self.workers,
            threads=self.threads,
            batch=self.batch,
            retry_failed=self.retry_failed,
            cluster=self.cluster,
        )


def _check_has_classes(task: Observing) -> None:
    """Refuse a set without a class in any of its ground truth, before a model is opened.

    Raises:
        InvalidDataSet: no label file holds one. Files that cannot be read do not count; the run reports each of them with its image.
    """
    for sample in task.samples:
        with suppress(InvalidTruth):
            if true_labels(task.declared, read_truth(sample.truth, sample.values)):
                return
    raise InvalidDataSet(
        f"No label file of the {len(task.samples)} images of {task.declared.name} holds a class, so that every row is as good as any other. "
        "Take images that show some (a larger --limit), or check the label files."
    )


def _succeeded(task: Observing, records: Sequence[Record]) -> tuple[list[Sample], dict[str, str]]:
    """The samples that did not fail, and the errors of the others."""
    failures = {record.image: record.error for record in records if record.error is not None}
    samples = [sample for sample in task.samples if sample.name not in failures]
    if not samples:
        image, error = next(iter(failures.items()))
        raise InvalidDataSet(f"All {len(failures)} images failed, the first, {image!r}, with {error}")
    return samples, failures


def _scored(task: Observing, samples: Sequence[Sample], observations: Path, thresholds: Thresholds) -> Scores:
    """All rows, scored on all images.

    Raises:
        InvalidDataSet: the model said yes to no class in any image.
    """
    (recipe,) = task.job.rows.values()
    with_yes = (one for one in (_load(observations, sample) for sample in samples) if one.features is not None)
    first = next(with_yes, None)
    if first is None:
        raise InvalidDataSet(
            f"The model said yes to none of {len(task.classes)} classes in any of {len(samples)} images, so that there is no map to calibrate. "
            'Check the recipe\'s question and template (`fseg segment` shows the answers), or take ask.presence = "assume".'
        )
    labels = {name: index + task.declared.background for index, name in enumerate(task.classes)}
    scores = Scores(task.declared.labels, labels, recipe.refine, first.distances.shape[1], thresholds.pairs())
    for sample in tqdm(samples, desc="rows", unit="image", disable=None):
        scores.add(_load(observations, sample), read_truth(sample.truth, sample.values))
    return scores


def _load(observations: Path, sample: Sample) -> Observation:
    return load_observation(observations / f"{sample.name}.safetensors")


def _with_models(job: Job) -> Recipe:
    """The job's recipe with the names of the models that replace its own."""
    (recipe,) = job.rows.values()
    named = {"backbone": job.backbone, "sam.checkpoint": job.sam}
    return recipe.with_({key: str(model) for key, model in named.items() if isinstance(model, (str, Path))})


def _finish(
    task: Observing,
    samples: Sequence[Sample],
    observations: Path,
    folder: Path,
    recipes: Mapping[str, Recipe],
    manifest: Manifest,
    options: _Options,
) -> list[Record]:
    """The records of SAM's pass. Its folder is named after its rows and images: other thresholds may have other finalists."""
    prompts = {sample.name: prompts_of(_load(observations, sample), recipes) for sample in samples}
    assert manifest.models is not None, "a run with a record has a manifest with models"
    names = {name: str(value) for name, value in manifest.models.names().items()}
    written = strict_json.dump([{row: recipe.to_dict() for row, recipe in recipes.items()}, list(prompts)])
    out = folder / f"finalists-{hashlib.blake2b(written, digest_size=4).hexdigest()}"
    check_writable(out)
    hashes = folder / OBSERVED / CACHE
    if hashes.is_file() and not (out / CACHE).exists():
        shutil.copyfile(hashes, out / CACHE)  # the models of many gigabytes need not be hashed twice
    return options.run(finishing_task(task, recipes, samples, prompts, names), out)[1]


def _counted(records: Sequence[Record], fill: str) -> dict[str, Counts]:
    """The pixel counts of each row, with a leading image axis, over the images that did not fail.

    Raises:
        InvalidDataSet: all failed.
    """
    done = [record for record in records if record.error is None]
    if not done:
        raise InvalidDataSet(f"All {len(records)} images failed with SAM, the first, {records[0].image!r}, with {records[0].error}")
    return {row: stack([record.rows[row].counts[fill] for record in done]) for row in done[0].rows}
