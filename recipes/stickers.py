"""The sticker world: its tiny models, with layers and a threshold tuned on scenes of its training artists."""

from __future__ import annotations

from fseg.recipe import Recipe
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond

STICKERS = Recipe(
    name="stickers",
    backbone="stickers",
    respond=Respond("D*M_A", {"layers": (3, 4), "beta": 0.2}),
    sam=Sam("stickers"),
)
