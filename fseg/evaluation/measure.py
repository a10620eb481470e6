"""From the results and the ground truth of one image to its record."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from attrs import evolve
from jaxtyping import Int64

from fseg.errors import InvalidTruth
from fseg.evaluation.datasets.declarations import DataSet
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.run.records import ClassRecord, Record, Row
from fseg.labels.metric import Counts
from fseg.labels.values import IGNORED
from fseg.recipe import Recipe
from fseg.result import Result
from probe.errors import NotFinite

Labels = Int64[np.ndarray, "height width"]
NONE, ARGMAX = "none", "argmax_response"


def headline(declared: DataSet, recipe: Recipe) -> str:
    """The key of `predictions` that a recipe's mIoU is computed from."""
    return recipe.compose.fill if declared.background or recipe.compose.fill == ARGMAX else NONE


def fills(declared: DataSet, recipe: Recipe) -> tuple[str, ...]:
    """The keys of `predictions`."""
    return (recipe.compose.fill,) if declared.background else (NONE, ARGMAX)


def predictions(declared: DataSet, result: Result) -> dict[str, Labels]:
    """A result in the labels of the data set, by how the pixels without a mask were filled.

    Returns:
        for a set with a background, what the recipe composed, under its `compose.fill`. Otherwise two label maps, whichever of the two the
        recipe names: "none" (255, which costs the ground truth's class its recall) and "argmax_response" (the class that responds most).
    """
    if declared.background:
        return {result.recipe.compose.fill: result.labels}
    covered = np.zeros(result.labels.shape, dtype=bool)
    for mask in result.sam_masks.values():
        if mask is not None:
            covered |= mask
    indices = [i for i, name in enumerate(result.classes) if result.evidence[name].present]
    present = [result.evidence[result.classes[i]] for i in indices]
    size = (result.labels.shape[0], result.labels.shape[1])
    filled = evolve(result.recipe.compose, fill=ARGMAX)(present, [None] * len(present), size, indices).numpy()
    masked = np.where(covered, result.labels, IGNORED)
    return {NONE: _from_zero(masked), ARGMAX: _from_zero(np.where(covered, result.labels, filled))}


def _from_zero(labels: Labels) -> Labels:
    """Classes 1..C as 0..C - 1; pixels without a class stay 255."""
    return np.where(labels == IGNORED, IGNORED, labels - 1)


def from_one(labels: Mapping[str, Labels], declared: DataSet) -> dict[str, Labels]:
    """Label maps whose first class is 1, whether or not the set has a background."""
    shift = 0 if declared.background else 1
    return {title: np.where(values == IGNORED, IGNORED, values + shift) for title, values in labels.items()}


def true_labels(declared: DataSet, truth: Labels) -> tuple[int, ...]:
    """The labels of the classes that a ground truth has a pixel of, background left out."""
    return tuple(int(label) for label in np.unique(truth) if label != IGNORED and label >= declared.background)


def check_size(sample: Sample, truth: Labels, size: tuple[int, int]) -> None:
    """Refuse a ground truth of another size than its image.

    Args:
        size: (height, width) of the image in pixels.

    Raises:
        InvalidTruth: it has another one.
    """
    if truth.shape != size:
        raise InvalidTruth(
            f"The labels {str(sample.truth)!r} have {truth.shape[0]} x {truth.shape[1]} pixels (height x width), their image "
            f"{size[0]} x {size[1]}. Take both from the same distribution; an upright EXIF photo may need turning."
        )


def measure(declared: DataSet, sample: Sample, truth: Labels, results: Mapping[str, Result]) -> Record:
    """Count one image.

    Args:
        truth: as `read_truth` returns it.
        results: of the image, by the name of the row.

    Raises:
        InvalidTruth: the ground truth has another size than the image.
        NotFinite: a margin or a score is NaN or infinite.
    """
    ground_truth = true_labels(declared, truth)
    rows = {name: _row(declared, sample, truth, ground_truth, result) for name, result in results.items()}
    return Record(sample.name, ground_truth, rows)


def _row(declared: DataSet, sample: Sample, truth: Labels, ground_truth: tuple[int, ...], result: Result) -> Row:
    check_size(sample, truth, (result.labels.shape[0], result.labels.shape[1]))
    predicted = tuple(i + declared.background for i, name in enumerate(result.classes) if result.evidence[name].present)
    counts = {fill: Counts.of(labels, truth, declared.labels) for fill, labels in predictions(declared, result).items()}
    kept = sorted({*predicted, *ground_truth})
    return Row(counts, predicted, tuple(_class_record(result, label, label - declared.background) for label in kept))


def _class_record(result: Result, label: int, index: int) -> ClassRecord:
    e = result.evidence[result.classes[index]]
    margin, score = (_finite(e.name, kind, value) for kind, value in (("margin", e.margin), ("score", e.score)))
    return ClassRecord(label, e.asked_as, e.answer, margin, score, e.flags)


def _finite(name: str, kind: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise NotFinite(f"The {kind} of {name!r} is {value}, which is no answer. Try --dtype float32 or bfloat16.")
    return None if value is None else float(value)
