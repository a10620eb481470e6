"""Sweep: many recipes over one image, the model's work done once for all that can share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

import probe
from fseg.errors import InvalidRecipe
from fseg.pipeline import Classes, Segmenter, collect_evidence, only_picture, run_stages
from fseg.recipe import Recipe
from fseg.result import Result
from fseg.stages.qap import Ask
from fseg.stages.segment import Promptable, SamMask, SamPrompt


class Sweep:
    """Runs several recipes with one backbone and one SAM.

    Rows that ask alike share their answers and one pass that reads what any of them needs; the stages run again for each row. SAM encodes
    an image once.

    Args:
        segmenter: whose models are used.
        rows: recipes by name.

    Raises:
        InvalidRecipe: no rows, one of other models, or one whose layers the model does not have.
    """

    def __init__(self, segmenter: Segmenter, rows: Mapping[str, Recipe]) -> None:
        if not rows:
            raise InvalidRecipe("A sweep needs one or more recipes, and none was given.")
        self.segmenter, self.rows = segmenter, dict(rows)
        self._groups: dict[Ask, list[str]] = {}
        for name, recipe in self.rows.items():
            self._groups.setdefault(recipe.ask, []).append(name)
            base = segmenter.recipe
            if (recipe.backbone, recipe.sam.checkpoint) != (base.backbone, base.sam.checkpoint):
                raise InvalidRecipe(
                    f'The row "{name}" names the models {recipe.backbone} and {recipe.sam.checkpoint}, the sweep\'s segmenter has those of '
                    f'"{base.name}": {base.backbone} and {base.sam.checkpoint}. Give each pair of models a sweep of its own.'
                )
            try:
                segmenter.model.validate(_reads([recipe]))
            except probe.errors.InvalidRead as error:
                raise InvalidRecipe(f'The row "{name}" does not fit {segmenter.model.name}: {error}') from error

    def __call__(self, image: probe.ImageLike | probe.PreparedImages, classes: Classes) -> dict[str, Result]:
        """The result of each row, in the order of the rows."""
        names = self.segmenter.names(classes)
        pictures = self.segmenter.model.prepare(image)
        picture = only_picture(pictures)
        sam = _EmbeddedOnce(self.segmenter.sam)
        results: dict[str, Result] = {}
        for ask, group in self._groups.items():
            reads = _reads([self.rows[name] for name in group])
            with self.segmenter.model.open(pictures, keep=reads, template=ask.template) as session:
                begun = collect_evidence(session, ask(session, names), reads, (picture.height, picture.width))
            for name in group:
                recipe = self.rows[name]
                results[name] = self.segmenter.segment(picture, tuple(names), run_stages(recipe, begun), recipe=recipe, sam=sam)
        return {name: results[name] for name in self.rows}


def _reads(recipes: Sequence[Recipe]) -> tuple[probe.Read, ...]:
    return probe.merge([read for recipe in recipes for read in (*recipe.respond.reads(), *recipe.refine.reads())])


class _EmbeddedOnce:
    """A SAM that keeps the embedding of the one image that it is used for."""

    def __init__(self, sam: Promptable) -> None:
        self._sam = sam
        self._embedding: Any = None

    def embed(self, image: Image.Image) -> Any:
        if self._embedding is None:
            self._embedding = self._sam.embed(image)
        return self._embedding

    def masks(self, embedding: Any, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        return self._sam.masks(embedding, prompts)
