"""What the paper leaves open, and the keys of a recipe that read it otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from fseg.fusion_methods.options import Option
from fseg.recipe import Recipe


@dataclass(frozen=True)
class Reading:
    """One way to read the paper.

    Attributes:
        key: of the recipe, as `Recipe.with_` takes it.
        value: what the reading sets it to.
        question: what the paper does not say.
    """

    key: str
    value: Option
    question: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


READINGS = (
    Reading("backbone.prepare", "processor", "is the image stretched to the tower's square, or cropped and padded by the processor?"),
    Reading("backbone.prepare", "pad", "is the image stretched to the tower's square, or padded to a square?"),
    Reading("backbone.prepare", "stretch", "is the image cropped and padded by the processor, or stretched to the tower's square?"),
    Reading("respond.view", "tiles", "which view of an image in tiles responds?"),
    Reading("respond.view", "both", "which view of an image in tiles responds?"),
    Reading("ask.question", "class-table-2", "the wording of the question: section 3.2 and Table 2 differ"),
    Reading("ask.question", "contain", "the wording of the question: Table 2's second row"),
    Reading("ask.article", "auto", '"a umbrella" or "an umbrella"?'),
    Reading("ask.template", "vicuna_v1", "which conversation frames the question?"),
    Reading("ask.template", "llava_v1", "which conversation frames the question?"),
    Reading("ask.template", "llava_hf", "which conversation frames the question?"),
    Reading("ask.presence", "gate", "does the answer decide whether the class is there, or the logits of yes and no?"),
    Reading("ask.gate_tokens", "every", "where a gate is on: which first tokens are a yes?"),
    Reading("ask.description", "second", "is S_1 all that follows the first sentence, or the second one alone?"),
    Reading("ask.full_stop", "any", "does a full stop without a space after it end S_0?"),
    Reading("respond.class_token", "first", "of a name of several tokens, which one is compared in Eq. 3?"),
    Reading("respond.class_token", "mean-feature", "of a name of several tokens, which one is compared in Eq. 3?"),
    Reading("respond.class_token", "mean-map", "of a name of several tokens, which one is compared in Eq. 3?"),
    Reading("respond.class_token", "before", "the state at the name, or the one that predicts it?"),
    Reading("respond.rows", "before", "attention of the description's tokens, or of those that predict them?"),
    Reading("respond.entropy", "reference", "how is a row's spatial entropy computed? The cited work's code"),
    Reading("respond.mean_factor", 2.0, "how many times its mean does a row lose before its entropy?"),
    Reading("respond.drop_light_rows", False, "are rows with little attention on the image dropped before the best are taken?"),
    Reading("respond.drop_sinks", True, "are attention sinks dropped?"),
    Reading("refine.features", "projected", "prototypes of the tower's features, or of the projected tokens?"),
    Reading("refine.vision_layer", -1, "the tower's last layer, or the one before it that LLaVA takes?"),
    Reading("prompt.snap", True, "is a point moved into its component where the centre lies outside?"),
    Reading("prompt.min_patches", 1, "how many cells has a component that gets a point?"),
    Reading("sam.multimask", "on", "SAM's single mask, or the best of its alternatives?"),
    Reading("sam.refine", True, "is SAM asked a second time, with its first mask?"),
    Reading("compose.resample", "bicubic", "the filter by which D~ gets the size of the image"),
    Reading("compose.resample", "nearest", "the filter by which D~ gets the size of the image"),
    Reading("compose.fill", "argmax_response", "what label has a pixel without a mask?"),
)
"""Each differs from a recipe in one key, or says the same as the recipe and is left out."""


def readings_of(recipe: Recipe) -> dict[Reading, Recipe]:
    """The readings that change this recipe, with the recipe that each makes of it. Those of options that its fusion lacks are left out."""
    known = set(recipe.keys())
    changed = {reading: recipe.with_({reading.key: reading.value}) for reading in READINGS if reading.key in known}
    return {reading: other for reading, other in changed.items() if other != recipe}
