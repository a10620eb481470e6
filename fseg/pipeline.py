"""Segmenter: a recipe, run over images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import probe
from fseg.checkpoints import backbone_place
from fseg.errors import InvalidClasses, InvalidRecipe
from fseg.evidence import Evidence
from fseg.recipe import Recipe, get_recipe
from fseg.result import Failure, Result
from fseg.stages.qap import ClassAnswer
from fseg.stages.segment import Promptable, load_sam
from fseg.stages.tvr import best_synonym
from fseg.vocabulary.classes import check_classes
from probe.inputs.prompt import refuse_special_tokens
from probe.loading.devices import resolve_device

Classes = Sequence[str] | Mapping[str, Sequence[str]]
"""Class names; or, for each class, the names that it is asked about by."""


class Segmenter:
    """Segments images by a recipe.

    Args:
        recipe: a Recipe or a registered one's name; None: the embedded default, "glyphs".
        backbone: instead of the recipe's: a hub id, a folder, or a model opened by `probe.load` (give it `resize="stretch", tiles=False`).
        sam: instead of the recipe's: a hub id, a folder, a file, a loaded SAM, or anything with `embed` and `masks`.
        device, dtype: where both models run, and in which precision the language model does; None: the CPU in float32, a GPU in the
            checkpoint's own.

    Raises:
        UnknownRecipe: no recipe of that name.
        LoadError, DeviceNotFound, ProcessorNeeded, InvalidSam: a model cannot be opened.
        InvalidRecipe: the recipe names layers that the model does not have.
    """

    def __init__(
        self,
        recipe: Recipe | str | None = None,
        *,
        backbone: str | Path | probe.Probe | None = None,
        sam: Any = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else get_recipe("glyphs" if recipe is None else recipe)
        device = resolve_device(device)
        self.model = _open_backbone(backbone if backbone is not None else self.recipe.backbone, device, dtype)
        self.reads = probe.merge([*self.recipe.respond.reads(), *self.recipe.refine.reads()])
        try:
            self.model.validate(self.reads)
        except probe.errors.InvalidRead as error:
            raise InvalidRecipe(f'The recipe "{self.recipe.name}" does not fit {self.model.name}: {error}') from error
        self.sam_name = str(sam) if isinstance(sam, (str, Path)) else self.recipe.sam.checkpoint if sam is None else type(sam).__name__
        self.sam: Promptable = load_sam(self.recipe.sam.checkpoint if sam is None else sam, device=device)

    def __repr__(self) -> str:
        device, dtype = self.model.model.device, str(self.model.model.dtype).removeprefix("torch.")
        return f"Segmenter(recipe {self.recipe.name!r}, backbone {self.model.name}, SAM {self.sam_name}, {device}, {dtype})"

    def __call__(self, image: probe.ImageLike | probe.PreparedImages, classes: Classes) -> Result:
        """Segment one image.

        Args:
            image: PIL image, path or array.
            classes: the names to look for, or for each class several names (a yes on any of them is a yes).

        Returns:
            a Result; where no class is found, all of it is background.

        Raises:
            ImageError: the image cannot be read.
            InvalidClasses: no class, one that appears twice, or a name that cannot be asked about (see `names`).
        """
        names = self.names(classes)
        pictures = self.model.prepare(image)
        picture = only_picture(pictures)
        with self.model.open(pictures, keep=self.reads, template=self.recipe.ask.template) as session:
            evidence = self.evidence(session, names, (picture.height, picture.width))
        return self.segment(picture, tuple(names), evidence)

    def names(self, classes: Classes) -> dict[str, tuple[str, ...]]:
        """For each class the names that it is asked about by, checked before anything is asked.

        Raises:
            InvalidClasses: see `fseg.vocabulary.classes.check_classes`; or a name holds a special token of the model, such as "</s>".
        """
        names = check_classes(classes)
        for name in (synonym for synonyms in names.values() for synonym in synonyms):
            try:
                refuse_special_tokens(self.model.processor, name)
            except probe.errors.TemplateError as error:
                raise InvalidClasses(f"The class name {name!r} cannot be asked about. {error}") from error
        return names

    def evidence(self, session: probe.Session, classes: Mapping[str, Sequence[str]], image_size: tuple[int, int]) -> list[Evidence]:
        """The model's part of the work: steps 2 to 5, from the questions to the prompts. One entry a class, in order."""
        return run_stages(self.recipe, collect_evidence(session, self.recipe.ask(session, classes), self.reads, image_size))

    def segment(
        self,
        picture: Image.Image,
        classes: tuple[str, ...],
        evidence: Sequence[Evidence],
        *,
        recipe: Recipe | None = None,
        sam: Promptable | None = None,
    ) -> Result:
        """SAM's part of the work: steps 6 and 7, from the prompts to the label map.

        Args:
            recipe, sam: instead of the segmenter's own, for a row of a sweep.
        """
        recipe = recipe or self.recipe
        scored, logits = recipe.sam(sam or self.sam, picture, evidence)
        image_size = (picture.height, picture.width)
        seen = [(i, e, mask) for i, (e, mask) in enumerate(zip(scored, logits, strict=True)) if e.present]
        labels = recipe.compose([e for _, e, _ in seen], [mask for _, _, mask in seen], image_size, [i for i, _, _ in seen])
        masks = {e.name: (mask > 0).numpy() if mask is not None else None for e, mask in zip(scored, logits, strict=True)}
        return Result(
            image=picture,
            labels=labels.numpy(),
            classes=classes,
            found=masks,
            evidence={e.name: replace(e, trace=None, scope=None) for e in scored},
            recipe=recipe,
            models=self.models(),
        )

    def map(self, images: Iterable[probe.ImageLike], classes: Classes, *, workers: int = 2) -> Iterator[Result | Failure]:
        """Segment many images, in order; the next ones are opened and resized in `workers` threads meanwhile.

        An image that fails gives a Failure with its error, and the rest goes on.
        """
        self.names(classes)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            source = iter(images)
            ahead: list[tuple[probe.ImageLike, Future[probe.PreparedImages]]] = []
            while True:
                ahead += [(image, pool.submit(self.model.prepare, image)) for image in islice(source, 1 + workers - len(ahead))]
                if not ahead:
                    return
                image, prepared = ahead.pop(0)
                yield self._result_or_failure(image, prepared, classes)

    def layer_distances(self, image: probe.ImageLike | probe.PreparedImages, name: str) -> dict[int, Float[Tensor, "row col"]]:
        """The cosine of Eq. 3 at every layer by itself (the paper's Figure 5): `hidden_states` index -> map.

        Where the model says no, its answer is written for it, so that there is a class token to compare with.
        """
        names = self.names([name])
        read = probe.Hidden(layers="all", at=("image", "class"))
        with self.model.open(image, keep=[read], template=self.recipe.ask.template) as session:
            answered = self.recipe.ask(session, names)[0]
            if not answered.present:
                answered = replace(self.recipe.ask, presence="assume")(session, names)[0]
            (trace,) = session.trace([answered.answer], [read])
        cells, word = trace.hidden("image").grid(), trace.hidden("class")
        layers = word.coords["layer"]
        return {
            layer: torch.cosine_similarity(cells.data[i, 0].float(), word.data[i, 0, -1].float(), dim=-1).cpu()
            for i, layer in enumerate(layers)
        }

    def models(self) -> dict[str, str]:
        """Which models answer, for the record."""
        revision = {"revision": self.model.revision} if self.model.revision else {}
        return {
            "backbone": self.model.name,
            "family": self.model.family,
            "dtype": str(self.model.model.dtype),
            **revision,
            "sam": self.sam_name,
        }

    def _result_or_failure(self, image: probe.ImageLike, prepared: Future[probe.PreparedImages], classes: Classes) -> Result | Failure:
        try:
            return self(prepared.result(), classes)
        except Exception as error:  # one image among many must not stop the others: its error is the result
            return Failure(image, error)


def _open_backbone(backbone: str | Path | probe.Probe, device: str | torch.device | None, dtype: str | torch.dtype | None) -> probe.Probe:
    if isinstance(backbone, probe.Probe):
        if backbone.processor is None:
            raise probe.errors.ProcessorNeeded(
                f"{backbone!r} has no processor to ask with. Open it with probe.load(model=..., processor=...)."
            )
        if not backbone.backbone.resizes_directly:
            raise _without_grid(backbone.family)
        if not backbone.encoder.direct:
            raise InvalidRecipe(
                f"{backbone!r} prepares pictures by its processor, which may crop them or cut tiles; points and boxes would land elsewhere. "
                'Open it with probe.load(..., resize="stretch", tiles=False).'
            )
        return backbone
    if not isinstance(backbone, (str, Path)):
        raise InvalidRecipe(
            f"backbone= is a {type(backbone).__name__}. Give a hub id, a folder, or a loaded model as "
            'probe.load(model=..., processor=..., resize="stretch", tiles=False).'
        )
    try:
        return probe.load(backbone_place(backbone), device=device, dtype=dtype, resize="stretch", tiles=False)
    except probe.errors.NoDirectResize as error:
        raise _without_grid(str(backbone)) from error


def _without_grid(name: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"{name} cannot be segmented with yet: its family does not say where image tokens lie when an image is resized directly, and points "
        "and boxes need that. Give a LLaVA-1.5, a VipLLaVA or a LLaVA-1.6."
    )


def only_picture(pictures: probe.PreparedImages) -> Image.Image:
    """The one picture that is segmented.

    Raises:
        ImageError: none or several.
    """
    if len(pictures.images) != 1:
        raise probe.errors.ImageError(f"{len(pictures.images)} images were given at once. Segment one, or pass many to map().")
    return pictures.images[0]


def collect_evidence(
    session: probe.Session, answered: Sequence[ClassAnswer], reads: Sequence[probe.Read], image_size: tuple[int, int]
) -> list[Evidence]:
    """What is known of each name once it was asked about: the answer and, for a yes, the activations that `reads` name, in one pass each."""
    traces = iter(session.trace([a.answer for a in answered if a.present], reads))
    return [_begun(a, next(traces) if a.present else None, image_size) for a in answered]


def run_stages(recipe: Recipe, begun: Sequence[Evidence]) -> list[Evidence]:
    """Steps 3 to 5 of a recipe: responses, the best name of each class, refined masks, prompts. One entry a class, in order."""
    responded = [recipe.respond(e) if e.present else e for e in begun]
    chosen = {name: _choose([e for e in responded if e.name == name]) for name in dict.fromkeys(e.name for e in begun)}
    refined = {e.name: e for e in recipe.refine([e for e in chosen.values() if e.present])}
    return [recipe.prompt(refined[name]) if name in refined else e for name, e in chosen.items()]


def _begun(answered: ClassAnswer, trace: probe.Trace | None, image_size: tuple[int, int]) -> Evidence:
    """What is known of a class once it was asked about."""
    (layout,) = answered.answer.tokens.layouts
    assert layout is not None, "a model that resizes directly knows its layout"
    grid = layout.grid()
    return Evidence(
        name=answered.name,
        asked_as=answered.asked_as,
        present=answered.present,
        answer=answered.text,
        margin=answered.margin,
        trace=trace,
        grid=(grid.rows, grid.cols),
        image_size=image_size,
        flags=answered.flags,
        view=None if grid.box == (0.0, 0.0, float(image_size[1]), float(image_size[0])) else grid.box,
    )


def _choose(synonyms: Sequence[Evidence]) -> Evidence:
    """One evidence a class: the best of the names that got a yes, or the first of those that got a no."""
    present = [e for e in synonyms if e.present]
    return best_synonym(present) if present else synonyms[0]
