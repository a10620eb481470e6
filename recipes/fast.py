"""Recipes that trade accuracy for time: nothing is generated, and there is no second sentence and no attention.

The gate alone decides whether a class is present, S_0 is teacher-forced, and the response is D instead of D * M_A. docs/speed.md has the
time saved and the accuracy lost.
"""

from __future__ import annotations

from fseg.recipe import Recipe
from recipes.glyphs import GLYPHS
from recipes.paper import PAPER


def fast(recipe: Recipe) -> Recipe:
    """The recipe without generation and without S_1; its name gets the suffix "-fast".

    >>> fast(GLYPHS).name
    'glyphs-fast'
    """
    return recipe.with_({"name": f"{recipe.name}-fast", "ask.presence": "gate", "respond.fusion": "D"})


FAST = tuple(fast(recipe) for recipe in (GLYPHS, *PAPER))
