"""Other fusions on the paper's chain, and their products with D: each recipe changes the respond stage, and refine's threshold with it.

The fusions are those of `fseg/fusion_methods`, each after its own paper. Their responses are shares of a peak, so that beta is no ceiling.
docs/fusions.md measures them on the glyph world; those of a 7B model were not run, and take the layers of their papers.
"""

from __future__ import annotations

from fseg.recipe import Recipe

FUSIONS = ("heads", "lens", "relative", "tam")

_ALONE = {"refine.alpha": 0.5, "refine.beta": 1.0}
_GLYPHS: dict[str, dict[str, object]] = {}
"""Found on training scenes: the heads by `fseg heads`, the layers and refine's alpha by the IoU of the refined masks."""


def alone(recipe: Recipe, fusion: str, **changes: object) -> Recipe:
    """The recipe with another fusion; its name gets the fusion's.

    >>> alone(GLYPHS, "heads").name, alone(GLYPHS, "heads").refine.beta
    ('glyphs-heads', 1.0)
    """
    return recipe.with_({"name": f"{recipe.name}-{fusion}", "respond.fusion": fusion, **_ALONE, **changes})


def with_distance(recipe: Recipe, fusion: str, **changes: object) -> Recipe:
    """The recipe with D weighted by another fusion.

    >>> with_distance(GLYPHS, "lens").respond.fusion
    'D*lens'
    """
    return recipe.with_({"name": f"{recipe.name}-d-{fusion}", "respond.fusion": f"D*{fusion}", **changes})
