"""Other fusions on the paper's chain, and their products with D: each recipe changes the respond stage, and refine's threshold with it.

The fusions are those of `fseg/fusion_methods`, each after its own paper. Their responses are shares of a peak, so that beta is no ceiling.
docs/fusions.md measures them on the glyph world; those of a 7B model were not run, and take the layers of their papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fseg.recipe import Recipe
from recipes.glyphs import GLYPHS
from recipes.paper import LLAVA_1_5_VICUNA_7B

_NO_CHANGES: Mapping[str, object] = MappingProxyType({})

METHODS = ("heads", "lens", "relative", "tam")


def alone(recipe: Recipe, fusion: str, changes: Mapping[str, object] = _NO_CHANGES) -> Recipe:
    """The recipe with another fusion; its name gets the fusion's.

    >>> alone(GLYPHS, "heads").name, alone(GLYPHS, "heads").refine.beta
    ('glyphs-heads', 1.0)
    """
    return recipe.with_({"name": f"{recipe.name}-{fusion}", "respond.fusion": fusion, "refine.alpha": 0.25, "refine.beta": 1.0, **changes})


def with_distance(recipe: Recipe, fusion: str, changes: Mapping[str, object] = _NO_CHANGES) -> Recipe:
    """The recipe with D weighted by another fusion. D is suppressed below its threshold already (Eq. 5), so refine's is 0.

    >>> with_distance(GLYPHS, "lens").respond.fusion
    'D*lens'
    """
    return recipe.with_({"name": f"{recipe.name}-d-{fusion}", "respond.fusion": f"D*{fusion}", "refine.alpha": 0.0, **changes})


GLYPHS_FUSIONS = (
    alone(GLYPHS, "heads", {"respond.heads": ((3, 0), (4, 0), (3, 1))}),
    alone(GLYPHS, "lens", {"respond.layers": (0, 8), "refine.alpha": 0.1}),
    alone(GLYPHS, "relative", {"respond.layers": (4, 4), "refine.alpha": 0.05}),
    alone(GLYPHS, "tam", {"respond.layers": (8, 8), "refine.alpha": 0.1}),
    with_distance(GLYPHS, "heads", {"respond.heads": ((3, 0), (4, 0), (3, 1))}),
    with_distance(GLYPHS, "lens", {"respond.lens_layers": (0, 8)}),
    with_distance(GLYPHS, "relative", {"respond.relative_layers": (3, 5)}),
    with_distance(GLYPHS, "tam", {"respond.tam_layers": (8, 8)}),
)
"""Found on training scenes: the heads by `fseg heads`, the layers and refine's alpha by the IoU of the refined masks."""

PAPER_LAYERS: dict[str, tuple[int, int]] = {"lens": (0, 32), "relative": (15, 15), "tam": (32, 32)}
"""Of LLaVA-1.5-7B, as the papers of the fusions have them."""


def _llava(method: str) -> tuple[Recipe, Recipe]:
    layers = PAPER_LAYERS.get(method)
    own, joint = ({key: layers} if layers else {} for key in ("respond.layers", f"respond.{method}_layers"))
    return alone(LLAVA_1_5_VICUNA_7B, method, own), with_distance(LLAVA_1_5_VICUNA_7B, method, joint)


FUSIONS = (*GLYPHS_FUSIONS, *(recipe for method in METHODS for recipe in _llava(method)))
