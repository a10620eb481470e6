"""Segmenter: runs a recipe over images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from attrs import evolve
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

import probe
from fseg.calls import Steps, after, complete, complete_together, trace
from fseg.checkpoints import DEFAULT, load_backbone
from fseg.checks import check_int, shown
from fseg.errors import InvalidClasses, InvalidRecipe
from fseg.evidence import Context, Evidence
from fseg.recipe import Recipe, get_recipe
from fseg.result import Failure, Result
from fseg.sam.base import AnySam
from fseg.sam.loading import load_sam
from fseg.stages.qap import ClassAnswer, asked
from fseg.stages.tvr import best_name, chosen_views, grid_of_maps, in_view, views_of
from fseg.vocabulary.classes import check_classes
from probe.inputs.prompt import refuse_special_tokens
from probe.notebook import Html, section
from probe.workers.prefetching import groups, prefetch, succeeded

Classes = Sequence[str] | Mapping[str, Sequence[str]]
"""Class names; or, for each class, the names that it is asked about by."""

_ON_A_GPU = 4
"""Images that share a pass on a GPU, which the tokens of one image may leave idle; not measured."""


class Segmenter:
    """Segments images by a recipe.

    Args:
        recipe: a Recipe or the name of a registered one; None: the embedded default, "glyphs".
        backbone: overrides the recipe's: a hub id, a folder, or a model loaded by `probe.load(..., resize="stretch", tiles=False)`.
        sam: overrides the recipe's: a hub id, a folder, a file, a loaded SAM, or an object with the methods `embed` and `masks`.
        device: of both models; None: the CPU, or the device of a loaded backbone.
        dtype: of the language model; None: float32 on the CPU, the checkpoint's own on a GPU. A loaded backbone keeps its device and dtype.

    Raises:
        UnknownRecipe: no recipe of that name.
        LoadError, DeviceNotFound, ProcessorNeeded, InvalidSam: a model cannot be loaded.
        InvalidRecipe: the recipe names layers that the model does not have; or a loaded backbone is on another device, or of another dtype.

    >>> segmenter = fseg.Segmenter()
    >>> segmenter(fseg.glyphs.scene(1).image, ["cat", "star"])
    Result(306 x 435 pixels, 1 of 2 classes present: cat; recipe 'glyphs')
    """

    def __init__(
        self,
        recipe: Recipe | str | None = None,
        *,
        backbone: str | Path | probe.Probe | None = None,
        sam: str | os.PathLike[str] | nn.Module | AnySam | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        recipe = recipe if isinstance(recipe, Recipe) else get_recipe(DEFAULT if recipe is None else recipe)
        sam = recipe.sam.checkpoint if sam is None else sam
        self.model = load_backbone(recipe.backbone.checkpoint if backbone is None else backbone, recipe.backbone.prepare, device, dtype)
        self.recipe = self.fitted(recipe, f'The recipe "{recipe.name}"')
        self.reads = reads_of([self.recipe])
        self.sam_name = str(sam) if isinstance(sam, (str, Path)) else type(sam).__name__
        self.sam: AnySam = load_sam(sam, device=self.model.model.device)

    def __repr__(self) -> str:
        device, dtype = self.model.model.device, str(self.model.model.dtype).removeprefix("torch.")
        return f"Segmenter(recipe {self.recipe.name!r}, backbone {self.model.name}, SAM {self.sam_name}, {device}, {dtype})"

    def _repr_html_(self) -> Html:
        return section(repr(self), self.recipe._repr_html_())

    def fitted(self, recipe: Recipe, called: str) -> Recipe:
        """The recipe for this backbone: its bands of layers as numbers.

        Args:
            called: what an error calls it.

        Raises:
            InvalidRecipe: it names layers or a view that the backbone does not have.
        """
        recipe, model = recipe.at_depth(len(self.model.modules.layers)), self.model
        cut = model.backbone.tiled and not model.encoder.direct
        if recipe.respond.view in ("tiles", "both") and not cut:
            raise InvalidRecipe(
                f'{called} has respond.view="{recipe.respond.view}", and {model.name} sees an image in one view. Take respond.view="auto"'
                + (', or have its processor cut tiles: backbone.prepare="processor".' if model.backbone.tiled else ".")
            )
        try:
            model.validate(reads_of([recipe]))
        except probe.errors.InvalidRead as error:
            raise InvalidRecipe(f"{called} does not fit {model.name}: {error}") from error
        return recipe

    def __call__(self, image: probe.ImageLike | probe.PreparedImages, classes: Classes) -> Result:
        """Segment one image.

        Args:
            image: PIL image, path or array.
            classes: the names to look for, or for each class several names (a yes on any of them is a yes).

        Returns:
            a Result; if no class is present, every pixel is background.

        Raises:
            ImageError: the image cannot be read.
            InvalidClasses: no class, one that appears twice, or a name that cannot be asked about (see `checked_names`).
        """
        names = self.checked_names(classes)
        return complete(self._steps(self.model.prepare(image), names))

    def _steps(
        self, prepared: probe.PreparedImages, names: Mapping[str, Sequence[str]], together: probe.ImageBatch | None = None
    ) -> Steps[Result]:
        """The work on one image; `together`: other images, whose part of the prompt may run with this one's."""
        original = single_image(prepared)
        with self.model.open(prepared, keep=self.reads, template=self.recipe.ask.template, together=together) as session:
            evidence = yield from self._evidence(session, names)
        return self.segment(original, tuple(names), evidence)

    def checked_names(self, classes: Classes) -> dict[str, tuple[str, ...]]:
        """The names that each class is asked about by, checked before any forward.

        Raises:
            InvalidClasses: see `fseg.vocabulary.classes.check_classes`; or a name contains a special token of the model, such as "</s>".
        """
        names = check_classes(classes)
        for name in (synonym for synonyms in names.values() for synonym in synonyms):
            try:
                refuse_special_tokens(self.model.processor, name)
            except probe.errors.TemplateError as error:
                raise InvalidClasses(f"The class name {name!r} cannot be asked about. {error}") from error
        return names

    def evidence(self, session: probe.Session, classes: Mapping[str, Sequence[str]]) -> list[Evidence]:
        """The stages ask, respond, refine and prompt, which use the language model. One entry for each class, in order."""
        return complete(self._evidence(session, classes))

    def _evidence(self, session: probe.Session, classes: Mapping[str, Sequence[str]]) -> Steps[list[Evidence]]:
        answers = yield from self.recipe.ask.steps(session, classes)
        evidence = yield from collect_evidence(session, answers, self.reads, self.model.lens, questions_of([self.recipe]))
        return run_stages(self.recipe, evidence)

    def segment(
        self,
        image: Image.Image,
        classes: tuple[str, ...],
        evidence: Sequence[Evidence],
        *,
        recipe: Recipe | None = None,
        sam: AnySam | None = None,
    ) -> Result:
        """The stages sam and compose: from the prompts to the label map.

        Args:
            recipe, sam: override the segmenter's own, for a row of a sweep.
        """
        return segment_prompted(recipe or self.recipe, sam or self.sam, image, classes, evidence, self.model_names())

    def map(
        self, images: Iterable[probe.ImageLike], classes: Classes, *, workers: int = 2, batch: int | None = None
    ) -> Iterator[Result | Failure]:
        """Segment many images, in order, while `workers` threads open and resize the next ones.

        An image that fails yields a Failure with its error, and the others continue. If `images` itself raises, the results of the images
        before come first.

        Args:
            batch: so many images go through the model together, and are held meanwhile: the vision tower and their part of the prompt (see
                `probe.ImageBatch`), their questions and traces (see `probe.ask_together`). None: found from the device, see `images_together`.

        Raises:
            InvalidClasses: see `checked_names`; at once, before the first image is opened.
            InvalidOption: `batch` is not a whole number of at least 1.
            ImageError: `images` is one image or path.

        >>> images = [fseg.glyphs.scene(1).image, "missing.png"]
        >>> [type(result).__name__ for result in fseg.Segmenter().map(images, ["cat"])]
        ['Result', 'Failure']
        """
        self.checked_names(classes)
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise probe.errors.ImageError(
                f"map() takes a list or another iterable of images; {shown(images)} is one. Put it into a list, or call the segmenter with it."
            )
        return self._map(images, classes, workers, self.images_together(batch))

    def images_together(self, batch: int | None) -> int:
        """How many images share a pass: `batch`, or if that is None what suits the device: 1 on the CPU, where one keeps it busy, else 4.

        Raises:
            InvalidOption: `batch` is not a whole number of at least 1.

        >>> fseg.Segmenter().images_together(None)
        1
        """
        if batch is not None:
            check_int("batch", batch, at_least=1)
            return batch
        return 1 if self.model.model.device.type == "cpu" else _ON_A_GPU

    def _map(self, images: Iterable[probe.ImageLike], classes: Classes, workers: int, batch: int) -> Iterator[Result | Failure]:
        names = self.checked_names(classes)
        for group in groups(prefetch(self.model.prepare, images, max(workers, batch)), batch):
            together = probe.ImageBatch(succeeded(prepared for _, prepared in group))
            steps = partial(self._steps, names=names, together=together)
            results = complete_together([after(prepared, steps) for _, prepared in group])
            for (image, _), result in zip(group, results, strict=True):  # one bad image must not stop the others
                yield Failure(image, result) if isinstance(result, Exception) else result

    def layer_distances(self, image: probe.ImageLike | probe.PreparedImages, name: str) -> dict[int, Float[Tensor, "row col"]]:
        """The cosine of Eq. 3 at each layer alone (the paper's Figure 5): `hidden_states` index -> map.

        If the model answers no, a yes is teacher-forced, so that there is a class token to compare with.
        """
        names = self.checked_names([name])
        read = probe.Hidden(layers="all", at=("image", "class"))
        with self.model.open(image, keep=[read], template=self.recipe.ask.template) as session:
            (answer,) = self.recipe.ask(session, names)
            if not answer.present:
                (answer,) = evolve(self.recipe.ask, presence="assume")(session, names)
            (evidence,) = complete(collect_evidence(session, [answer], [read]))
        e = in_view(evidence, self.recipe.respond.view)
        cosines = torch.cosine_similarity(e.hidden("image"), e.hidden("class")[:, -1:], dim=-1)
        return dict(enumerate(e.fold_each(cosines).cpu()))

    def grid(self, image: probe.ImageLike | probe.PreparedImages) -> probe.Grid:
        """Where the cells of this recipe's maps of an image lie.

        >>> fseg.Segmenter().grid(Image.new("RGB", (140, 70))).cell_box(0, 13)
        (130.0, 0.0, 140.0, 5.0)
        """
        (layout,) = self.model.encode(image, "", template=self.recipe.ask.template).tokens.layouts
        return grid_of_maps(chosen_views(views_of(layout), self.recipe.respond.view))

    def model_names(self) -> dict[str, str]:
        """The names and dtypes of the models, for the record."""
        revision = {"revision": self.model.revision} if self.model.revision else {}
        return {
            "backbone": self.model.name,
            "family": self.model.family,
            "dtype": str(self.model.model.dtype),
            **revision,
            "sam": self.sam_name,
        }


def reads_of(recipes: Iterable[Recipe]) -> tuple[probe.Read, ...]:
    """The activations that any stage of any of the recipes needs, merged."""
    return probe.merge([read for recipe in recipes for read in (*recipe.respond.reads(), *recipe.refine.reads())])


def questions_of(recipes: Iterable[Recipe]) -> dict[str, tuple[probe.Read, ...]]:
    """The other questions about an image that the fusions of any of the recipes need, and what they read in each."""
    asked = [pair for recipe in recipes for pair in recipe.respond.questions().items()]
    return {question: probe.merge([read for other, reads in asked if other == question for read in reads]) for question, _ in asked}


def single_image(prepared: probe.PreparedImages) -> Image.Image:
    """The only image of `prepared`, in its original size.

    Raises:
        ImageError: there is none, or there are several.
    """
    if len(prepared.images) != 1:
        raise probe.errors.ImageError(f"{len(prepared.images)} images were given at once. Segment one, or pass many to map().")
    return prepared.images[0]


def collect_evidence(
    session: probe.Session,
    answers: Sequence[ClassAnswer],
    reads: Sequence[probe.Read],
    lens: Callable[..., probe.Activation] | None = None,
    questions: Mapping[str, Sequence[probe.Read]] = MappingProxyType({}),
) -> Steps[list[Evidence]]:
    """The first evidence of each name: its answer and, for a yes, the activations of `reads`. Work on one image: see `fseg.calls`.

    Args:
        lens, questions: of the fusions that need them: `Probe.lens`, and other questions about the image with what is read in each.
    """
    present = [a.answer for a in answers if a.present]
    traces = iter((yield from trace(session, present, reads)))
    other = {}
    for question, own in questions.items() if present else ():
        (other[question],) = yield from trace(session, [asked(session, question)], own)
    context = Context(lens, other) if lens is not None else None
    return [replace(_first_evidence(a, next(traces)), context=context) if a.present else _first_evidence(a, None) for a in answers]


def segment_prompted(
    recipe: Recipe, sam: AnySam, image: Image.Image, classes: tuple[str, ...], evidence: Sequence[Evidence], models: Mapping[str, str]
) -> Result:
    """The stages sam and compose of a recipe, which need no language model.

    Args:
        evidence: one entry for each class, with its prompts.
        models: the names of the models that made the evidence, for the record.
    """
    scored, logits = recipe.sam(sam, image, evidence)
    present = [i for i, e in enumerate(scored) if e.present]
    labels = recipe.compose([scored[i] for i in present], [logits[i] for i in present], (image.height, image.width), present)
    masks = {e.name: None if mask is None else (mask > 0).numpy() for e, mask in zip(scored, logits, strict=True)}
    return Result(
        image=image,
        labels=labels.numpy(),
        classes=classes,
        sam_masks=masks,
        evidence={e.name: replace(e, trace=None, scope=None, context=None) for e in scored},
        recipe=recipe,
        models=models,
    )


def run_stages(recipe: Recipe, evidence: Sequence[Evidence]) -> list[Evidence]:
    """The stages respond, refine and prompt of a recipe, with the best name of each class. One entry for each class, in order."""
    responded = [recipe.respond(e) if e.present else e for e in evidence]
    classes = dict.fromkeys(e.name for e in evidence)
    best = {name: best_name([e for e in responded if e.name == name]) for name in classes}
    refined = {e.name: e for e in recipe.refine([e for e in best.values() if e.present])}
    return [recipe.prompt(refined[name]) if name in refined else e for name, e in best.items()]


def _first_evidence(answer: ClassAnswer, trace: probe.Trace | None) -> Evidence:
    (layout,) = answer.answer.tokens.layouts
    views = views_of(layout)
    return Evidence(
        name=answer.name,
        asked_as=answer.asked_as,
        present=answer.present,
        answer=answer.text,
        margin=answer.margin,
        trace=trace,
        grid=views[0],
        flags=answer.flags,
        views=views,
    )
