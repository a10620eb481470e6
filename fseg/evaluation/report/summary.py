"""The figures of a run, from its records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import TypedDict, cast

from fseg.evaluation.datasets.declarations import BACKGROUND, DataSet
from fseg.evaluation.measure import headline
from fseg.evaluation.run.content import data_fingerprint
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Record
from fseg.labels.metric import Counts, Presence
from fseg.recipe import Recipe

MOST_FAILURES = 0.01
"""The share of images that may fail before a run counts as failed."""


class PresenceResults(TypedDict):
    """The answers to "is this class in the image?"; see `fseg.labels.metric.Presence`."""

    precision: float | None
    recall: float | None
    hits: int
    misses: int
    false_alarms: int
    rejections: int


class RowResults(TypedDict):
    """The figures of one recipe, shares in 0..1. What is not known is None.

    Attributes:
        classes: IoU by the name of the label.
        fill: how the pixels without a mask were filled for `miou`.
        miou_by_fill: the mIoU of each way to fill them.
        recipe: as plain values.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    classes: dict[str, float | None]
    fill: str
    miou_by_fill: dict[str, float | None]
    presence: PresenceResults
    recipe: dict[str, object]


class RunResults(RowResults, total=False):
    """The figures of a run, as `results.json` holds them.

    A run of one recipe has the keys of `RowResults` at the top; a run of several has them under `rows`, by the recipes' names.
    """

    data_set: str
    class_list: str
    images: int
    failed: int
    rows: dict[str, RowResults]
    failures: dict[str, str | None]
    missing_files: int
    images_of_the_whole_set: int | None
    data_fingerprint: str
    limit: int | None
    shard: str
    models: dict[str, object]
    versions: dict[str, str]


def summarise(manifest: Manifest, declared: DataSet, rows: Mapping[str, Recipe], records: Sequence[Record]) -> RunResults:
    """The results of a run, the same for any order of the records."""
    failed = sorted((record for record in records if record.error is not None), key=lambda record: record.image)
    classes = [names[0] for names in manifest.classes]
    figures = {name: _row(declared, classes, name, recipe, records) for name, recipe in rows.items()}
    values = manifest.to_dict()
    head = {
        "data_set": manifest.data_set,
        "class_list": manifest.class_list,
        "images": len(records) - len(failed),
        "failed": len(failed),
    }
    tail = {
        "failures": {record.image: record.error for record in failed},
        "missing_files": manifest.missing_files,
        "images_of_the_whole_set": declared.count,
        "data_fingerprint": data_fingerprint(records),
        **{key: values[key] for key in ("limit", "shard", "models", "versions")},
    }
    if len(figures) == 1:
        return cast(RunResults, {**next(iter(figures.values())), **head, **tail})
    return cast(RunResults, {**head, "rows": figures, **tail})


def row_results(results: RunResults) -> dict[str, RowResults]:
    """The figures of each recipe of a run, by its name."""
    return results["rows"] if "rows" in results else {str(results["recipe"]["name"]): results}


def too_many_failed(results: RunResults) -> bool:
    """Whether more than 1 % of the images failed."""
    return bool(results["failed"] > MOST_FAILURES * (results["images"] + results["failed"]))


def label_names(declared: DataSet, classes: Iterable[str]) -> list[str]:
    """The name of each label, 0..C-1."""
    return [BACKGROUND, *classes] if declared.background else list(classes)


def total(records: Iterable[Record], row: str, fill: str) -> Counts | None:
    """The sum of one row's counts over all images that did not fail; None without any."""
    counts = [record.rows[row].counts[fill] for record in records if record.error is None]
    return reduce(add, counts) if counts else None


def _row(declared: DataSet, classes: Sequence[str], name: str, recipe: Recipe, records: Sequence[Record]) -> RowResults:
    done = [record for record in records if record.error is None]
    fills = list(done[0].rows[name].counts) if done else []
    counts = {fill: total(done, name, fill) for fill in fills}
    asked = declared.labels - declared.background
    presence = sum((Presence.of(record.rows[name].predicted, record.ground_truth, asked) for record in done), Presence())
    chosen = counts.get(headline(declared, recipe))
    ious = zip(label_names(declared, classes), chosen.iou().tolist(), strict=True) if chosen else ()
    return {
        "miou": _known(chosen.mean_iou()) if chosen else None,
        "pixel_accuracy": _known(chosen.pixel_accuracy()) if chosen else None,
        "mean_accuracy": _known(chosen.mean_accuracy()) if chosen else None,
        "classes": {label: _known(value) for label, value in ious},
        "fill": headline(declared, recipe),
        "miou_by_fill": {fill: _known(one.mean_iou()) for fill, one in counts.items() if one},
        "presence": {"precision": _known(presence.precision), "recall": _known(presence.recall), **asdict(presence)},  # type: ignore[typeddict-item]
        "recipe": dict(recipe.to_dict()),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
