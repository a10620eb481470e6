"""Recipes for data sets in which large regions without a shape count, such as sky and grass. docs/stuff.md measures their parts."""

from __future__ import annotations

from fseg.recipe import Recipe
from recipes.glyphs import GLYPHS
from recipes.paper import PAPER

SHARE = 0.2
"""Of the grid: a class whose refined mask covers more is stuff."""


def stuff(recipe: Recipe) -> Recipe:
    """The recipe with other prompts for large regions, no pixel left without a class; its name gets the suffix "-stuff".

    >>> stuff(GLYPHS).name, stuff(GLYPHS).prompt.stuff_share
    ('glyphs-stuff', 0.2)
    """
    return recipe.with_(
        {
            "name": f"{recipe.name}-stuff",
            "prompt.stuff_share": SHARE,
            "sam.negatives": True,
            "sam.unite": True,
            "compose.fill": "argmax_response",
        }
    )


STUFF = tuple(stuff(recipe) for recipe in (GLYPHS, *PAPER))
