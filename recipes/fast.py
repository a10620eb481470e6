"""Recipes that trade accuracy for time: nothing is generated, and the second sentence with its attention is left out.

Presence is the gate's margin alone, S_0 is written behind each question that passes, and D stands for D * M_A. docs/speed.md has what
that saves and what it costs.
"""

from __future__ import annotations

from fseg.recipe import Recipe
from recipes.glyphs import GLYPHS
from recipes.paper import PAPER


def fast(recipe: Recipe) -> Recipe:
    """The recipe without generation and without S_1, under its name with "-fast" behind it."""
    return recipe.with_({"name": f"{recipe.name}-fast", "ask.presence": "gate", "respond.fusion": "D"})


FAST = tuple(fast(recipe) for recipe in (GLYPHS, *PAPER))
