"""`python -m fseg.stickers.evaluate`: measure a backbone, a SAM and the whole method on held-out scenes of an artist, for the model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer
from jaxtyping import Float

from fseg.errors import InvalidOption
from fseg.labels.metric import bootstrap_difference, bootstrap_interval, stack
from fseg.pipeline import Segmenter
from fseg.recipe import Recipe
from fseg.stickers.descriptions import judged
from fseg.stickers.drawings import CLASSES
from fseg.stickers.scenes import Scene, scene
from fseg.worlds.measuring import Measured, measure_scenes, rounded, rows

Interval = tuple[float, float, float]
"""A figure, and its 95 % interval over resampled scenes; NaN where there is no case."""


class Figures(TypedDict):
    """The figures of a backbone and a SAM.

    Attributes:
        scenes, questions: how many.
        sensitivity, specificity, balanced: of the answers; balanced is the mean of the two.
        sam_iou: mean IoU from true boxes and centroids.
        truthful: the share of the right yes answers whose size, place and neighbour are all true.
        size, place, neighbour: the same for each part.
        miou: mean IoU by recipe, background being a label.
        lead: for each further recipe, how far the first lies above it.
    """

    scenes: int
    questions: int
    sensitivity: Interval
    specificity: Interval
    balanced: Interval
    sam_iou: Interval
    truthful: Interval
    size: Interval
    place: Interval
    neighbour: Interval
    miou: dict[str, Interval]
    lead: dict[str, Interval]


def interval(
    figure: Callable[[Float[np.ndarray, "draw scene"]], Float[np.ndarray, " draw"]], scenes: int, draws: int = 2000, seed: int = 0
) -> Interval:
    """A figure of all scenes, and the 95 % interval over scenes drawn with replacement.

    Args:
        figure: the figure for each row of weights of the scenes.
    """
    weights = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    drawn, whole = figure(weights.astype(float)), float(figure(np.ones((1, scenes)))[0])
    if np.isnan(drawn).all():  # no scene has a case
        return whole, whole, whole
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return whole, float(low), float(high)


def _share(hits: list[float], of: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Hits divided by cases, both summed over weighted scenes."""
    right, cases = np.array(hits, dtype=float), np.array(of, dtype=float)

    def share(weights: np.ndarray) -> np.ndarray:
        return np.divide(weights @ right, weights @ cases, out=np.full(len(weights), np.nan), where=weights @ cases > 0)

    return share


def _truths(shown: Scene, answers: Mapping[str, str]) -> Float[np.ndarray, "answer 4"]:
    """For each answer whether its size, its place, its neighbour and all of them are true."""
    found = [judged(shown, name, text) for name, text in answers.items()]
    return np.array([(t.size, t.place, t.neighbour, t.all) if t else (0, 0, 0, 0) for t in found], dtype=float).reshape(-1, 4)


def figures(scenes: list[Scene], found: Measured) -> Figures:
    """The figures of what was found on some scenes."""
    count = len(scenes)
    hits, misses, alarms, rejections = (
        [getattr(each, name) for each in found.presence] for name in ("hits", "misses", "false_alarms", "rejections")
    )
    sensitivity = _share(list(map(float, hits)), [h + m for h, m in zip(hits, misses, strict=True)])
    specificity = _share(list(map(float, rejections)), [r + a for r, a in zip(rejections, alarms, strict=True)])
    truths = [_truths(shown, answers) for shown, answers in zip(scenes, found.answers, strict=True)]
    size, place, neighbour, truthful = (
        interval(_share([float(each[:, k].sum()) for each in truths], [len(each) for each in truths]), count) for k in range(4)
    )
    stacked = {name: stack(each) for name, each in found.counts.items()}
    first, *others = stacked
    return {
        "scenes": count,
        "questions": count * len(CLASSES),
        "sensitivity": interval(sensitivity, count),
        "specificity": interval(specificity, count),
        "balanced": interval(lambda weights: (sensitivity(weights) + specificity(weights)) / 2, count),
        "sam_iou": interval(_share([sum(each) for each in found.overlaps], [len(each) for each in found.overlaps]), count),
        "truthful": truthful,
        "size": size,
        "place": place,
        "neighbour": neighbour,
        "miou": {name: bootstrap_interval(each) for name, each in stacked.items()},
        "lead": {name: bootstrap_difference(stacked[first], stacked[name]) for name in others},
    }


def measure(
    segmenter: Segmenter, scenes: int = 200, first_seed: int = 0, artist: str | None = None, compared: Mapping[str, Recipe] | None = None
) -> Figures:
    """Segment held-out scenes of an artist by one recipe or several, asking about all classes in each scene.

    Args:
        artist: as for `fseg.stickers.scene`.
        compared: recipes by name. None: the segmenter's own. The answers of the first are counted.
    """
    shown = [scene(seed, artist) for seed in range(first_seed, first_seed + scenes)]
    return figures(shown, measure_scenes(segmenter, shown, CLASSES, compared))


def main(
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
    artist: Annotated[str | None, typer.Option(help="Who drew the stickers; a mixture of the shipped artists by default.")] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to measure.")] = "stickers",
    switches: Annotated[bool, typer.Option(help="Also measure each of the paper's switches, and each layer alone.")] = True,
    backbone: Annotated[Path | None, typer.Option(help="A folder in the Hugging Face format instead of the recipe's.")] = None,
    sam: Annotated[Path | None, typer.Option(help="SAM weights instead of the recipe's.")] = None,
) -> None:
    """Measure the answers, SAM and the whole method on held-out scenes."""
    try:
        scene(seed, artist)
    except InvalidOption as error:
        raise typer.BadParameter(str(error)) from error
    segmenter = Segmenter(recipe, backbone=backbone, sam=sam)
    layers = range(len(segmenter.model.modules.layers) + 1)  # the embeddings included
    compared = rows(segmenter.recipe, [(layer, layer) for layer in layers]) if switches else None
    typer.echo(json.dumps(rounded(measure(segmenter, n, seed, artist, compared)), indent=1))


if __name__ == "__main__":
    typer.run(main)
