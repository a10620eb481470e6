"""Measures a segmenter on scenes whose truth is known: the answers, SAM, and the whole method by one recipe or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image
from tqdm import tqdm

from fseg.labels.metric import Counts, Presence
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
}
"""The changes of the paper's Tables 4 to 6, one at a time."""


class Example(Protocol):
    """A scene of an embedded world."""

    @property
    def image(self) -> Image.Image:
        """RGB."""
        ...

    @property
    def labels(self) -> Int64[np.ndarray, "height width"]:
        """0 background, i + 1: class i."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names present."""
        ...


@dataclass(frozen=True)
class Measured:
    """What was found on some scenes, one entry for each.

    Attributes:
        counts: pixel counts by recipe.
        presence: of the first recipe's answers.
        overlaps: IoU of SAM's masks from true prompts, one for each object.
        answers: the first recipe's answers to the classes that are there and got a yes, by class.
    """

    counts: dict[str, list[Counts]]
    presence: list[Presence]
    overlaps: list[list[float]]
    answers: list[dict[str, str]]


def rows(recipe: Recipe, bands: Iterable[tuple[int, int]]) -> dict[str, Recipe]:
    """The recipe itself, and one recipe for each switch of the paper's tables.

    Args:
        bands: first and last layer of the rows of Table 3.
    """
    named: dict[str, dict[str, object]] = {f"layers {first}-{last}": {"respond.layers": (first, last)} for first, last in bands}
    return {METHOD: recipe, **{name: recipe.with_(change) for name, change in (SWITCHES | named).items()}}


def true_prompt(mask: Bool[np.ndarray, "height width"]) -> SamPrompt:
    """The centroid and the box of a known mask, both ends of the box inside."""
    y, x = np.nonzero(mask)
    return SamPrompt(((float(x.mean()), float(y.mean())),), (float(x.min()), float(y.min()), float(x.max()), float(y.max())))


def sam_overlaps(sam: AnySam, shown: Example, classes: Sequence[str]) -> list[float]:
    """IoU of SAM's mask with each object of a scene, from true prompts."""
    truths = [shown.labels == classes.index(name) + 1 for name in shown.classes]
    masks = [(mask.logits > 0).numpy() for mask in sam.masks(sam.embed(shown.image), [true_prompt(truth) for truth in truths])]
    return [float((mask & truth).sum() / (mask | truth).sum()) for mask, truth in zip(masks, truths, strict=True)]


def measure_scenes(
    segmenter: Segmenter, scenes: Iterable[Example], classes: Sequence[str], compared: Mapping[str, Recipe] | None = None
) -> Measured:
    """Segment scenes by one recipe or several, asking about all classes in each scene.

    Args:
        compared: recipes by name. None: the segmenter's own, as METHOD. The answers of the first are counted.
    """
    sweep = Sweep(segmenter, compared or {METHOD: segmenter.recipe})
    first = next(iter(sweep.rows))
    found = Measured({name: [] for name in sweep.rows}, [], [], [])
    for shown in tqdm(scenes, unit="scene", disable=None):
        results = sweep(shown.image, list(classes))
        for name, result in results.items():
            found.counts[name].append(Counts.of(result.labels, shown.labels, len(classes) + 1))
        present = results[first].present
        predicted, ground_truth = ([classes.index(name) for name in names] for names in (present, shown.classes))
        found.presence.append(Presence.of(predicted, ground_truth, len(classes)))
        found.overlaps.append(sam_overlaps(segmenter.sam, shown, classes))
        found.answers.append({name: results[first].evidence[name].answer for name in shown.classes if name in present})
    return found


def rounded(value: object) -> object:
    """The value with every float in it rounded to four places; NaN, which JSON does not have, becomes None."""
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
