"""Runs a recipe and each open reading of it on one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import probe
from fseg.checkpoints import prepared
from fseg.doctor.moved import Moved, moved
from fseg.doctor.readings import Reading, readings_of
from fseg.errors import InvalidRecipe
from fseg.evidence import Evidence
from fseg.pipeline import Segmenter
from fseg.recipe import Recipe
from fseg.sweep import Sweep


@dataclass(frozen=True)
class Diagnosis:
    """One image, one class.

    Attributes:
        evidence: what the recipe itself gives.
        moved: how far each reading moves it.
        labels: for each of these readings the share of pixels whose label changes.
        refused: the readings that this model cannot follow, and why.
    """

    evidence: Evidence
    moved: Mapping[Reading, Moved]
    labels: Mapping[Reading, float]
    refused: Mapping[Reading, str]


def diagnose(segmenter: Segmenter, image: probe.ImageLike, name: str) -> Diagnosis:
    """How much each open reading of the paper moves the maps and prompts of one class.

    Readings with the same questions share the answers and one pass; another preparation of the image takes a pass of its own.

    Raises:
        ImageError: the image cannot be read.
        InvalidClasses: the class cannot be asked about.

    >>> scene = fseg.glyphs.scene(1)
    >>> found = diagnose(fseg.Segmenter(), scene.image, scene.classes[0])
    >>> found.evidence.present, any(one.mask is not None and one.mask < 1 for one in found.moved.values())
    (True, True)
    """
    base = segmenter.recipe
    refused: dict[Reading, str] = {}
    chosen: dict[Reading, tuple[Segmenter, Recipe]] = {}
    for reading, recipe in readings_of(base).items():
        try:
            able = segmenter if recipe.backbone == base.backbone else _prepared(segmenter, recipe)
            chosen[reading] = able, able.fitted(recipe, f"The reading {reading}")
        except InvalidRecipe as error:
            refused[reading] = str(error)
    own = {reading: recipe for reading, (able, recipe) in chosen.items() if able is segmenter}
    opened = segmenter.model.prepare(image)
    rows = {"": base, **{str(reading): recipe for reading, recipe in own.items()}}
    results = Sweep(segmenter, rows)(opened, [name])
    for reading, (able, _) in chosen.items():
        if able is not segmenter:
            results[str(reading)] = able(image, [name])
    evidence, labels = results[""].evidence[name], results[""].labels
    return Diagnosis(
        evidence,
        {
            reading: moved(evidence, results[str(reading)].evidence[name], (base.compose.resample, recipe.compose.resample))
            for reading, (_, recipe) in chosen.items()
        },
        {reading: float((results[str(reading)].labels != labels).mean()) for reading in chosen},
        refused,
    )


def _prepared(segmenter: Segmenter, recipe: Recipe) -> Segmenter:
    """A segmenter of the same models that prepares images as another recipe says.

    Raises:
        InvalidRecipe: the family's processor is the only way, or the recipe does not fit it.
    """
    if recipe.backbone.prepare != "processor" and not segmenter.model.backbone.resizes_directly:
        raise InvalidRecipe(f"{segmenter.model.name} is of a family whose processor alone prepares images.")
    return Segmenter(recipe, backbone=prepared(segmenter.model, recipe.backbone.prepare), sam=segmenter.sam)


def table(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines of the table: first the recipe's own evidence, then a line for each reading, then those that do not apply."""
    e = diagnosis.evidence
    yield f"{e.name}: {'yes' if e.present else 'no'}, answer {e.answer!r}"
    yield ""
    width = max((len(str(reading)) for reading in diagnosis.moved), default=7)
    head = ("there", "max |dD~|", "mean", "IoU M_r", "points", "IoU box", "labels")
    yield f"{'reading':<{width}}  " + "  ".join(f"{word:>9}" for word in head) + "  what the paper leaves open"
    for reading, one in diagnosis.moved.items():
        cells = (
            "yes" if one.present else "no",
            _number(one.largest, ".3f"),
            _number(one.mean, ".4f"),
            _number(one.mask, ".3f"),
            _number(one.points, ".1f"),
            _number(one.box, ".3f"),
            f"{diagnosis.labels[reading]:.2%}",
        )
        yield f"{reading!s:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells) + f"  {reading.question}"
    for reading, reason in diagnosis.refused.items():
        yield f"{reading!s:<{width}}  does not apply: {reason}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
