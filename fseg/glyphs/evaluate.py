"""`python -m fseg.glyphs.evaluate`: measure the embedded models and the whole method on held-out scenes, for the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer

from fseg.glyphs.scenes import CLASSES, Split, scene
from fseg.labels.metric import Presence, bootstrap_difference, stack
from fseg.pipeline import Segmenter
from fseg.recipe import Recipe
from fseg.worlds.measuring import METHOD as METHOD
from fseg.worlds.measuring import measure_scenes, rounded, rows

BANDS = [(first, first + 1) for first in range(8)]
"""Bands of layers that are compared; the embedded decoder has 8 blocks."""


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
    shown = [scene(seed, split) for seed in range(first_seed, first_seed + scenes)]
    found = measure_scenes(segmenter, shown, CLASSES, compared)
    presence = sum(found.presence, Presence())
    stacked = {name: stack(each) for name, each in found.counts.items()}
    first, *others = stacked
    return {
        "presence": {
            "questions": sum(astuple(presence)),
            "sensitivity": presence.recall,
            "specificity": presence.rejections / max(1, presence.rejections + presence.false_alarms),
        },
        "miou": {name: each.total().mean_iou() for name, each in stacked.items()},
        "difference": {name: bootstrap_difference(stacked[first], stacked[name]) for name in others},
        "sam_iou": float(np.mean([overlap for each in found.overlaps for overlap in each])),
    }


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
    compared = rows(segmenter.recipe, BANDS) if switches else None
    typer.echo(json.dumps(rounded(measure(segmenter, n, seed, compared=compared)), indent=1))


if __name__ == "__main__":
    typer.run(main)
