"""A fusion of your own, as somebody outside this package would write it: one file, one function, a recipe that names it.

    fseg segment street.jpg --classes car --import examples/my_fusion.py --recipe my-sharp --out out

A package that has this file registers both with two lines in its pyproject.toml, and then nothing needs to be imported:

    [project.entry-points."fseg.recipes"]
    my-sharp = "my_fusion:recipe"
"""

from __future__ import annotations

import torch

import fseg
import probe


@fseg.fusion("my-sharp", reads=lambda layers, **_: [probe.Hidden(layers=fseg.band(layers), at=("image", "class"))])
def sharp(e: fseg.Evidence, *, layers: tuple[int, int] = (7, 13), power: float = 2.0) -> torch.Tensor:
    """Mean cosine over a band of layers, sharpened."""
    image, word = e.hidden("image"), e.hidden("class")
    cosine = torch.cosine_similarity(image, word[:, -1:], dim=-1).mean(0)
    return e.fold(cosine.clamp(min=0) ** power)


def recipe() -> fseg.Recipe:
    """The embedded default with the fusion above; `recipe().to_toml()` is a recipe file."""
    changes = {"name": "my-sharp", "respond.fusion": "my-sharp", "respond.layers": (3, 5), "refine.beta": 0.04}
    return fseg.get_recipe("glyphs").with_(changes)
