"""Scenes without background: two or three textures that meet along wavy lines, and up to two glyphs on them.

The embedded LLaVA was not trained on them and does not know the textures' names. They measure what becomes of large regions behind the
response map, and any other model that knows sky from sand.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from PIL import Image

from fseg.errors import InvalidOption
from fseg.glyphs.scenes import CLASSES, Scene, scatter
from fseg.worlds.backgrounds import varied_size
from fseg.worlds.textures import TEXTURES, texture

REGION_CLASSES: tuple[str, ...] = (*TEXTURES, *CLASSES)
"""The classes of `regions`: five textures, then the glyphs."""

_STREAM = 0x726567


def _parted(rng: np.random.Generator, height: int, width: int, count: int) -> Int64[np.ndarray, "height width"]:
    """The number of the region of each pixel, from 0: bands of similar height, or upright ones, with wavy edges."""
    upright = bool(rng.random() < 0.3)
    long, wide = (width, height) if upright else (height, width)
    along = np.arange(wide)
    number = np.zeros((long, wide), dtype=np.int64)
    for band in range(1, count):
        wave = sum(rng.normal(0, 0.03 / turns) * np.sin(2 * np.pi * (turns * along / wide + rng.random())) for turns in (1, 2, 3))
        edge = long * (band / count + rng.uniform(-0.08, 0.08) + wave)
        number += np.arange(long)[:, None] >= edge
    return number.T if upright else number


def regions(seed: int, size: tuple[int, int] | None = None) -> Scene:
    """A scene of textures; the same arguments give the same scene. Its labels are 1 + the positions in `REGION_CLASSES`; none is 0.

    Args:
        seed: any non-negative integer.
        size: (height, width) in pixels. None: drawn from 112 to 512.

    Raises:
        InvalidOption: the seed is negative.

    >>> regions(1).classes, int(regions(1).labels.min()) > 0
    (('grass', 'sand', 'scissors'), True)
    """
    if seed < 0:
        raise InvalidOption(f"seed={seed}: scenes are numbered from 0.")
    rng = np.random.default_rng([_STREAM, seed, *(size or ())])
    height, width = size or varied_size(rng)
    names = rng.permutation(len(TEXTURES))[: int(rng.choice([2, 3]))]
    number = _parted(rng, height, width, len(names))
    labels = names[number] + 1
    pixels = np.zeros((height, width, 3))
    for index in names.tolist():
        pixels = np.where((labels == index + 1)[..., None], texture(TEXTURES[index], rng, height, width), pixels)
    things = scatter(rng, pixels, labels, int(rng.choice([0, 1, 2])), first=len(TEXTURES))
    image = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    shown = tuple(REGION_CLASSES[label - 1] for label in np.unique(labels))
    return Scene(image, labels, shown, things)
