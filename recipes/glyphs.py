"""The embedded default: the tiny models that come with the package, with layers and thresholds of their own."""

from __future__ import annotations

from fseg.recipe import Recipe
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine

GLYPHS = Recipe(
    name="glyphs",
    backbone="glyphs",
    respond=Respond("D*M_A", {"layers": (3, 4), "beta": 0.2}),
    refine=Refine(beta=0.2),
    sam=Sam("glyphs"),
)
