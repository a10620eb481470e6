"""Results whose masks are given, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fseg
import fseg.glyphs
from tests.unit.fseg.fakes import evidence


def result_of(masks: Mapping[str, NDArray[np.bool_] | None], image: Image.Image, score: float = 0.75) -> fseg.Result:
    """A result with these masks; where they overlap, the label map has the last one. A class whose mask is None is absent."""
    size = (image.height, image.width)
    labels = np.zeros(size, dtype=np.int64)
    for i, mask in enumerate(masks.values(), 1):
        if mask is not None:
            labels[mask] = i
    return fseg.Result(
        image=image,
        labels=labels,
        classes=tuple(masks),
        evidence={
            name: evidence(name=name, image_size=size, present=mask is not None, score=None if mask is None else score)
            for name, mask in masks.items()
        },
        recipe=fseg.get_recipe("glyphs"),
        models={},
        sam_masks=dict(masks),
    )


def drawn(*rows: str) -> NDArray[np.bool_]:
    """A mask of lines of text: "#" is inside."""
    return np.array([[character == "#" for character in row] for row in rows])


def small(**masks: NDArray[np.bool_] | None) -> fseg.Result:
    """A result with these masks on a grey image."""
    height, width = next(mask.shape for mask in masks.values() if mask is not None)
    return result_of(masks, Image.new("RGB", (width, height), "grey"))


@cache
def glyph_result(seed: int) -> fseg.Result:
    """The ground truth of a scene as a result: all twenty classes were asked about."""
    scene = fseg.glyphs.scene(seed)
    masks = {name: scene.labels == i if name in scene.classes else None for i, name in enumerate(fseg.glyphs.CLASSES, 1)}
    return result_of(masks, scene.image)
