"""Recipes compared over the same images: mIoU with intervals paired by image, IoU by class, and the images where they differ most."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fseg.errors import InvalidRecipe
from fseg.evaluation.datasets.declarations import DataSet
from fseg.evaluation.measure import headline
from fseg.evaluation.report.summary import label_names
from fseg.evaluation.report.text import percent
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Record
from fseg.labels.metric import Counts, bootstrap_difference, bootstrap_interval, bootstrap_wins, stack
from fseg.recipe import Recipe

Interval = tuple[float, float, float]
"""A figure of all images, and the ends of its 95 % interval over images drawn with replacement."""


@dataclass(frozen=True)
class ComparedRecipe:
    """The figures of one recipe, shares in 0..1.

    Attributes:
        miou: with its interval.
        lead: its mIoU minus that of the first recipe, with the interval of the difference; None for the first.
        best: the share of the draws in which its mIoU is the largest.
        classes: IoU by the name of the label; None for a class that is neither predicted nor true.
    """

    name: str
    miou: Interval
    lead: Interval | None
    best: float
    classes: Mapping[str, float | None]


@dataclass(frozen=True)
class Apart:
    """An image, and the mIoU of each recipe on it alone, over the classes that are predicted or true there."""

    image: str
    miou: Mapping[str, float]

    @property
    def range(self) -> float:
        """The largest of them minus the smallest."""
        return max(self.miou.values()) - min(self.miou.values())


@dataclass(frozen=True)
class Comparison:
    """Recipes over the same images.

    Attributes:
        recipes: in the order in which they were given.
        furthest: the images on which the recipes are furthest apart, the widest range first; ones without a difference are left out.
    """

    data_set: str
    images: int
    failed: int
    recipes: tuple[ComparedRecipe, ...]
    furthest: tuple[Apart, ...]


def compare(
    manifest: Manifest, declared: DataSet, recipes: Mapping[str, Recipe], records: Sequence[Record], furthest: int = 4
) -> Comparison:
    """Compare the rows of a run.

    Args:
        furthest: how many images are named at most.

    Raises:
        InvalidRecipe: every image failed.
    """
    done = sorted((record for record in records if record.error is None), key=lambda record: record.image)
    if not done:
        raise InvalidRecipe(f"All {len(records)} images failed, so there is nothing to compare. See failures in results.json.")
    counts = {name: [record.rows[name].counts[headline(declared, recipe)] for record in done] for name, recipe in recipes.items()}
    stacked = {name: stack(of_images) for name, of_images in counts.items()}
    labels = label_names(declared, [names[0] for names in manifest.classes])
    first, best = next(iter(stacked)), bootstrap_wins(list(stacked.values()))
    rows = [
        ComparedRecipe(
            name,
            bootstrap_interval(each),
            None if name == first else bootstrap_difference(each, stacked[first]),
            share,
            {label: _known(iou) for label, iou in zip(labels, each.total().iou().tolist(), strict=True)},
        )
        for (name, each), share in zip(stacked.items(), best, strict=True)
    ]
    apart = [Apart(record.image, {name: _mean_iou(counts[name][number]) for name in counts}) for number, record in enumerate(done)]
    widest = sorted((one for one in apart if one.range > 0), key=lambda one: (-one.range, one.image))
    return Comparison(manifest.data_set, len(done), len(records) - len(done), tuple(rows), tuple(widest[:furthest]))


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a page in Markdown, figures in percent."""
    first = comparison.recipes[0].name
    failed = f", {comparison.failed} more failed" if comparison.failed else ""
    lines = [
        f"# {len(comparison.recipes)} recipes on {comparison.data_set}",
        "",
        f"{comparison.images} images{failed}. In brackets are 95 % intervals over images drawn with replacement; those of the differences are "
        "paired by image. Best is the share of the draws in which a recipe's mIoU is the largest.",
        "",
        f"| recipe | mIoU | minus {_cell(first)} | best |",
        "|---|---|---|---|",
        *(
            f"| {_cell(row.name)} | {_with_interval(row.miou)} | {_with_interval(row.lead, '+.1f') if row.lead else ''} | {percent(row.best).strip()} |"
            for row in comparison.recipes
        ),
        "",
        "## IoU by class",
        "",
        f"| class | {' | '.join(_cell(row.name) for row in comparison.recipes)} |",
        "|---|" + "---|" * len(comparison.recipes),
        *(
            f"| {_cell(label)} | {' | '.join(percent(row.classes[label]).strip() for row in comparison.recipes)} |"
            for label in comparison.recipes[0].classes
        ),
    ]
    return "\n".join([*lines, "", *_images(comparison)]) + "\n"


def comparison_csv(comparison: Comparison) -> str:
    """The comparison as a table, a line for each recipe: its mIoU and difference with their intervals, then the IoU of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ["miou", "miou_low", "miou_high", "lead", "lead_low", "lead_high", "best"]
    writer.writerow(["recipe", *figures, *(f"iou {label}" for label in comparison.recipes[0].classes)])
    for row in comparison.recipes:
        writer.writerow([row.name, *row.miou, *(row.lead or [None] * 3), row.best, *row.classes.values()])
    return text.getvalue()


def _images(comparison: Comparison) -> list[str]:
    if not comparison.furthest:
        return ["No image tells the recipes apart."]
    return [
        "## Images where they differ most",
        "",
        f"| image | {' | '.join(_cell(row.name) for row in comparison.recipes)} |",
        "|---|" + "---|" * len(comparison.recipes),
        *(
            f"| {_cell(one.image)} | {' | '.join(percent(one.miou[row.name]).strip() for row in comparison.recipes)} |"
            for one in comparison.furthest
        ),
    ]


def _mean_iou(counts: Counts) -> float:
    """0 for an image without any class, which every recipe leaves empty."""
    return 0.0 if math.isnan(value := counts.mean_iou()) else value


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _with_interval(figures: Interval, form: str = ".1f") -> str:
    value, lower, upper = (format(100 * figure, form) for figure in figures)
    return f"{value} [{lower}, {upper}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
