"""Scenes: one to four glyphs, each in two random colours, on a flat, graded, noisy or photographic background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from fseg.errors import InvalidOption
from fseg.glyphs.font import GLYPHS, Glyph, posed
from fseg.worlds.backgrounds import background, colours, varied_size

Split = Literal["train", "held-out"]
Box = tuple[int, int, int, int]

CLASSES: tuple[str, ...] = tuple(GLYPHS)
"""The twenty class names."""

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": ("brick", "coins", "gravel", "motorcycle_left", "ihc", "retina", "cell", "page", "moon", "rocket"),
    "held-out": ("grass", "camera", "clock_motion", "text"),
}
"""scikit-image's photographs by split, without those that show one of the classes (a cat, a cup, a horse, a flag, stars)."""

_STREAMS = {"train": 0x7261696E, "held-out": 0x68656C64}  # the splits draw from different random streams
_HEIGHTS = (0.2, 0.6)  # of the shorter side
_TURN = 35.0  # degrees
_CONTRAST = 90.0  # least distance in RGB of the ink to the ground and to the fill, so that a glyph can be seen
_HIDDEN = 0.03  # the largest share of a glyph that another may cover: things touch, they do not hide each other


@dataclass(frozen=True)
class Thing:
    """One glyph of a scene."""

    index: int
    """Class number, counted from 0."""
    fill: tuple[int, int, int]
    ink: tuple[int, int, int]
    stroke: float
    """The share of the silhouette that is ink; the rest is fill."""

    @property
    def colour(self) -> tuple[int, int, int]:
        """The colour, ink or fill, that covers more of it."""
        return self.ink if self.stroke > 0.5 else self.fill


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    >>> scene(1).classes, int(scene(1).labels.max())
    (('umbrella', 'cat'), 3)
    """

    image: Image.Image
    """RGB."""
    labels: Int64[np.ndarray, "height width"]
    """0 background, i + 1 = CLASSES[i]."""
    classes: tuple[str, ...]
    """The names present, in the order of CLASSES."""
    things: tuple[Thing, ...] = ()
    """The glyphs, in the order of CLASSES."""


def _colour_away_from(rng: np.random.Generator, other: np.ndarray) -> Float[np.ndarray, "3"]:
    """A random colour that contrasts with another: the first of 50 draws that does, or else the most distant one."""
    draws = colours(rng, 50)
    distance = np.linalg.norm(draws - other, axis=1)
    far = np.flatnonzero(distance >= _CONTRAST)
    return draws[far[0] if len(far) else distance.argmax()]


def _place(rng: np.random.Generator, name: str, labels: Int64[np.ndarray, "height width"], share: float) -> tuple[Glyph, int, int] | None:
    """A pose and a top left corner at which a glyph hides little of the others; None if no attempt succeeds."""
    height, width = labels.shape
    taken = labels > 0
    smallest = np.unique(labels[taken], return_counts=True)[1].min(initial=labels.size)
    for attempt in range(5):  # smaller at each attempt
        size = min(height, width) * (_HEIGHTS[0] + (share - _HEIGHTS[0]) * 0.8**attempt)
        shape = posed(name, size, float(rng.uniform(-_TURN, _TURN)), bool(rng.random() < 0.5))
        wide, tall = shape.solid.size
        if wide > width or tall > height:
            continue
        inside = np.asarray(shape.solid) >= 128
        for _ in range(6):
            x, y = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - tall + 1))
            if taken[y : y + tall, x : x + wide][inside].sum() <= _HIDDEN * min(smallest, inside.sum()):
                return shape, x, y
    return None


def _paint(pixels: np.ndarray, shape: Glyph, x: int, y: int, fill: np.ndarray, ink: np.ndarray) -> None:
    """Draw a glyph into `pixels`, in place: its silhouette in one colour, its strokes in another."""
    wide, tall = shape.solid.size
    window = pixels[y : y + tall, x : x + wide]
    solid = np.asarray(shape.solid, dtype=float)[..., None] / 255
    stroke = np.asarray(shape.ink, dtype=float)[..., None] / 255
    window[:] = window * (1 - solid) + fill * solid
    window[:] = window * (1 - stroke) + ink * stroke


def _draw(rng: np.random.Generator, split: Split, height: int, width: int) -> Scene:
    pixels = background(rng, PHOTOGRAPHS[split], height, width)
    labels = np.zeros((height, width), dtype=np.int64)
    things = scatter(rng, pixels, labels, int(rng.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15])))
    image = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    return Scene(image, labels, tuple(CLASSES[thing.index] for thing in things), things)


def scatter(
    rng: np.random.Generator, pixels: np.ndarray, labels: Int64[np.ndarray, "height width"], count: int, first: int = 0
) -> tuple[Thing, ...]:
    """Draw at most `count` glyphs of different classes into `pixels` and `labels`, in place.

    Args:
        first: the labels below the glyphs': glyph i of CLASSES gets first + i + 1, and what is labelled up to `first` may be covered.

    Returns:
        Those for which there was a place, in the order of CLASSES.
    """
    things: dict[int, Thing] = {}
    for index in rng.permutation(len(CLASSES))[:count].tolist():
        placed = _place(rng, CLASSES[index], np.where(labels > first, labels, 0), float(rng.uniform(*_HEIGHTS)))
        if placed is None:
            continue
        shape, x, y = placed
        wide, tall = shape.solid.size
        inside = np.asarray(shape.solid) >= 128
        ground = pixels[y : y + tall, x : x + wide][inside].mean(0)
        ink = _colour_away_from(rng, ground)
        fill = _colour_away_from(rng, ink)
        _paint(pixels, shape, x, y, fill, ink)
        labels[y : y + tall, x : x + wide][inside] = first + index + 1
        stroke = float((np.asarray(shape.ink) >= 128)[inside].mean())
        things[index] = Thing(index, _rgb(fill), _rgb(ink), stroke)
    return tuple(things[index] for index in sorted(things))


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    return cast(tuple[int, int, int], tuple(int(value) for value in colour.round()))


def scene(seed: int, split: Split = "held-out", size: tuple[int, int] | None = None) -> Scene:
    """A scene; the same arguments give the same scene.

    Args:
        seed: any non-negative integer.
        split: "train" or "held-out". The two share neither random numbers nor photographs.
        size: (height, width) in pixels. None: drawn from 112 to 512.

    Raises:
        InvalidOption: the seed is negative.

    >>> scene(1).image.size, scene(1, size=(112, 160)).image.size
    ((306, 435), (160, 112))
    """
    if seed < 0:
        raise InvalidOption(f"seed={seed}: scenes are numbered from 0.")
    if split not in _STREAMS:
        raise ValueError(f"split {split!r} was asked for; there are {', '.join(map(repr, _STREAMS))}")
    rng = np.random.default_rng([_STREAMS[split], seed, *(size or ())])
    height, width = size or varied_size(rng)
    return _draw(rng, split, height, width)
