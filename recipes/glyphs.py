"""The embedded default: the tiny models of this package, with layers and a threshold tuned for them."""

from __future__ import annotations

from fseg.recipe import Recipe
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond

GLYPHS = Recipe(
    name="glyphs",
    backbone="glyphs",
    respond=Respond("D*M_A", {"layers": (3, 4), "beta": 0.2}),
    sam=Sam("glyphs"),
)
