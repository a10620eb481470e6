"""Sweep: many recipes over one image, with shared answers, activations and SAM embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

import probe
from fseg.calls import Steps, complete
from fseg.errors import InvalidRecipe
from fseg.pipeline import Classes, Segmenter, collect_evidence, questions_of, reads_of, run_stages, single_image
from fseg.recipe import Recipe
from fseg.result import Result
from fseg.sam.base import AnySam, SamMask, SamPrompt
from fseg.stages.qap import Ask


class Sweep:
    """Runs several recipes with one backbone and one SAM.

    Rows with the same `ask` stage share their answers, and one pass that reads what any of them needs; the other stages run for each row.
    SAM encodes an image once.

    Args:
        segmenter: its models are used.
        rows: recipes by name.

    Raises:
        InvalidRecipe: no rows, one of other models, or one whose layers the model does not have.

    >>> from fseg.sweep import Sweep
    >>> recipe = fseg.get_recipe("glyphs")
    >>> sweep = Sweep(fseg.Segmenter(recipe), {kind: recipe.with_({"prompt.kind": kind}) for kind in ("point", "box")})
    >>> list(sweep(fseg.glyphs.scene(1).image, ["cat"]))
    ['point', 'box']
    """

    def __init__(self, segmenter: Segmenter, rows: Mapping[str, Recipe]) -> None:
        if not rows:
            raise InvalidRecipe("A sweep needs one or more recipes, and none was given.")
        self.segmenter = segmenter
        self.rows: dict[str, Recipe] = {}
        self._groups: dict[Ask, list[str]] = {}
        for name, recipe in rows.items():
            self.rows[name] = self._fitted(name, recipe)
            self._groups.setdefault(recipe.ask, []).append(name)

    def __call__(self, image: probe.ImageLike | probe.PreparedImages, classes: Classes) -> dict[str, Result]:
        """The result of each row, in the order of the rows."""
        return complete(self.steps(self.segmenter.model.prepare(image), classes))

    def steps(self, prepared: probe.PreparedImages, classes: Classes, together: probe.ImageBatch | None = None) -> Steps[dict[str, Result]]:
        """The same as work on one image, whose calls may run with those of others: see `fseg.calls`.

        Args:
            together: other images, whose part of the prompt may run with this one's.
        """
        names = self.segmenter.checked_names(classes)
        original = single_image(prepared)
        sam = EmbeddedOnce(self.segmenter.sam)
        results: dict[str, Result] = {}
        for ask, group in self._groups.items():
            recipes = [self.rows[name] for name in group]
            reads = reads_of(recipes)
            with self.segmenter.model.open(prepared, keep=reads, template=ask.template, together=together) as session:
                answers = yield from ask.steps(session, names)
                evidence = yield from collect_evidence(session, answers, reads, self.segmenter.model.lens, questions_of(recipes))
            for name in group:
                recipe = self.rows[name]
                results[name] = self.segmenter.segment(original, tuple(names), run_stages(recipe, evidence), recipe=recipe, sam=sam)
        return {name: results[name] for name in self.rows}

    def _fitted(self, name: str, recipe: Recipe) -> Recipe:
        base = self.segmenter.recipe
        if (recipe.backbone, recipe.sam.checkpoint) != (base.backbone, base.sam.checkpoint):
            raise InvalidRecipe(
                f'The row "{name}" names the models {recipe.backbone} and {recipe.sam.checkpoint}, the sweep\'s segmenter has those of '
                f'"{base.name}": {base.backbone} and {base.sam.checkpoint}. Give each pair of models a sweep of its own.'
            )
        return self.segmenter.fitted(recipe, f'The row "{name}"')


class EmbeddedOnce:
    """A SAM that encodes the image at its first call, and then reuses the embedding: it is used for one image only."""

    def __init__(self, sam: AnySam) -> None:
        self._sam = sam
        self._embedding: object = None

    def embed(self, image: Image.Image) -> object:
        if self._embedding is None:
            self._embedding = self._sam.embed(image)
        return self._embedding

    def masks(self, embedding: object, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        return self._sam.masks(embedding, prompts)
