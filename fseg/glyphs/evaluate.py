"""`python -m fseg.glyphs.evaluate`: measure the embedded models and the whole method on held-out scenes, for the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer
from jaxtyping import Bool
from tqdm import tqdm

from fseg.glyphs.scenes import CLASSES, Scene, Split, scene
from fseg.labels.metric import Counts, Presence, bootstrap_difference, stack
from fseg.pipeline import Segmenter
from fseg.recipe import Recipe
from fseg.sam.base import AnySam, SamPrompt
from fseg.sweep import Sweep

METHOD = "D * M_A, both masks, points and box"
"""The name of the recipe's own row."""

SWITCHES: dict[str, dict[str, object]] = {
    "D": {"respond.fusion": "D"},
    "M_A": {"respond.fusion": "M_A"},
    "M_v": {"refine.mask": "M_v"},
    "M^_f": {"refine.mask": "M^_f"},
    "points": {"prompt.kind": "point"},
    "box": {"prompt.kind": "box"},
    **{f"layers {first}-{first + 1}": {"respond.layers": (first, first + 1)} for first in range(8)},
}
"""The changes of the paper's Tables 3 to 6, one at a time; the embedded decoder has 8 blocks."""


class PresenceFigures(TypedDict):
    """How many questions were asked, and the sensitivity and specificity of the answers."""

    questions: int
    sensitivity: float
    specificity: float


class Figures(TypedDict):
    """The figures of the embedded models.

    Attributes:
        presence: of the answers.
        miou: mean IoU by recipe, background being a label.
        difference: for each further recipe, how far the first lies above it, with the paired 95 % interval.
        sam_iou: mean IoU from true boxes and centroids.
    """

    presence: PresenceFigures
    miou: dict[str, float]
    difference: dict[str, tuple[float, float, float]]
    sam_iou: float


def rows(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe itself, and one recipe for each switch of the paper's tables."""
    return {METHOD: recipe, **{name: recipe.with_(change) for name, change in SWITCHES.items()}}


def true_prompt(mask: Bool[np.ndarray, "height width"]) -> SamPrompt:
    """The centroid and the box of a known mask, both ends of the box inside."""
    y, x = np.nonzero(mask)
    return SamPrompt(((float(x.mean()), float(y.mean())),), (float(x.min()), float(y.min()), float(x.max()), float(y.max())))


def sam_overlaps(sam: AnySam, shown: Scene) -> list[float]:
    """IoU of SAM's mask with each object of a scene, from true prompts."""
    truths = [shown.labels == CLASSES.index(name) + 1 for name in shown.classes]
    masks = [(mask.logits > 0).numpy() for mask in sam.masks(sam.embed(shown.image), [true_prompt(truth) for truth in truths])]
    return [float((mask & truth).sum() / (mask | truth).sum()) for mask, truth in zip(masks, truths, strict=True)]


def measure(
    segmenter: Segmenter,
    scenes: int = 200,
    first_seed: int = 0,
    split: Split = "held-out",
    compared: Mapping[str, Recipe] | None = None,
) -> Figures:
    """Segment scenes by one recipe or several, asking about all classes in each scene.

    Args:
        compared: recipes by name. None: the segmenter's own, as METHOD. The answers of the first are counted.
    """
    sweep = Sweep(segmenter, compared or {METHOD: segmenter.recipe})
    first, *others = sweep.rows
    counts: dict[str, list[Counts]] = {name: [] for name in sweep.rows}
    presence, overlaps = Presence(), list[float]()
    for seed in tqdm(range(first_seed, first_seed + scenes), unit="scene", disable=None):
        shown = scene(seed, split)
        results = sweep(shown.image, CLASSES)
        for name, result in results.items():
            counts[name].append(Counts.of(result.labels, shown.labels, len(CLASSES) + 1))
        predicted, ground_truth = ([CLASSES.index(name) for name in names] for names in (results[first].present, shown.classes))
        presence += Presence.of(predicted, ground_truth, len(CLASSES))
        overlaps += sam_overlaps(segmenter.sam, shown)
    stacked = {name: stack(each) for name, each in counts.items()}
    return {
        "presence": {
            "questions": sum(astuple(presence)),
            "sensitivity": presence.recall,
            "specificity": presence.rejections / max(1, presence.rejections + presence.false_alarms),
        },
        "miou": {name: each.total().mean_iou() for name, each in stacked.items()},
        "difference": {name: bootstrap_difference(stacked[first], stacked[name]) for name in others},
        "sam_iou": float(np.mean(overlaps)),
    }


def rounded(value: object) -> object:
    """The value with every float in it rounded to four places."""
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def main(
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
    recipe: Annotated[str, typer.Option(help="The recipe to measure.")] = "glyphs",
    switches: Annotated[bool, typer.Option(help="Also measure each of the paper's switches.")] = True,
    backbone: Annotated[Path | None, typer.Option(help="A LLaVA folder instead of the recipe's.")] = None,
    sam: Annotated[Path | None, typer.Option(help="SAM weights instead of the recipe's.")] = None,
) -> None:
    """Measure the answers, SAM and the whole method on held-out scenes."""
    segmenter = Segmenter(recipe, backbone=backbone, sam=sam)
    compared = rows(segmenter.recipe) if switches else None
    typer.echo(json.dumps(rounded(measure(segmenter, n, seed, compared=compared)), indent=1))


if __name__ == "__main__":
    typer.run(main)
