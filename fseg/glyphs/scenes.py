"""Scenes: one to four glyphs, each in two random colours, on a flat, graded, noisy or photographic background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from fseg.errors import InvalidOption
from fseg.glyphs.font import GLYPHS, Glyph, posed

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


@cache
def _photograph(name: str) -> UInt8[np.ndarray, "height width 3"]:
    import skimage.data  # imported with the first photograph: `import fseg` does not wait for scikit-image

    folder = Path(skimage.data.__file__).parent
    with Image.open(next(folder.glob(name + ".*"))) as photograph:
        return np.asarray(photograph.convert("RGB"))


def _colours(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Random colours; corners of the RGB cube are more frequent than in a uniform draw, as in drawings."""
    uniform = rng.uniform(0, 255, (count, 3))
    corners = np.where(uniform > 127, 255, 0) + rng.normal(0, 25, (count, 3))
    return np.clip(np.where(rng.random((count, 1)) < 0.5, uniform, corners), 0, 255)


def _colour_away_from(rng: np.random.Generator, other: np.ndarray) -> Float[np.ndarray, "3"]:
    """A random colour that contrasts with another: the first of 50 draws that does, or else the most distant one."""
    draws = _colours(rng, 50)
    distance = np.linalg.norm(draws - other, axis=1)
    far = np.flatnonzero(distance >= _CONTRAST)
    return draws[far[0] if len(far) else distance.argmax()]


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Float[np.ndarray, "height width 3"]:
    """Colours drawn on a coarse grid, interpolated."""
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=float)


def _crop(rng: np.random.Generator, photograph: np.ndarray, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """A random window of a photograph, mirrored, tinted and scaled in contrast at random."""
    tall, wide = photograph.shape[:2]
    scale = rng.uniform(0.3, 1.0) * min(tall / height, wide / width)
    h, w = max(8, int(height * scale)), max(8, int(width * scale))
    top, left = rng.integers(0, tall - h + 1), rng.integers(0, wide - w + 1)
    window = photograph[top : top + h, left : left + w]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    pixels = np.asarray(Image.fromarray(np.ascontiguousarray(window)).resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    if rng.random() < 0.6:
        pixels = pixels[..., rng.permutation(3)] * rng.uniform(0.4, 1.2, 3) + rng.uniform(-30, 60, 3)
    return np.clip(pixels, 0, 255)


def background(rng: np.random.Generator, split: Split, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """A background, values 0 to 255."""
    kind = rng.choice(["flat", "gradient", "noise", "photograph"], p=[0.2, 0.2, 0.2, 0.4])
    if kind == "photograph":
        return _crop(rng, _photograph(str(rng.choice(PHOTOGRAPHS[split]))), height, width)
    first, second = _colours(rng, 2)
    ground = np.broadcast_to(first, (height, width, 3))
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * np.linspace(-1, 1, width)[None] + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
        share = ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
        ground = ground * (1 - share) + second * share
    if kind == "noise":
        ground = ground + rng.uniform(0.2, 0.8) * (_smooth_noise(rng, height, width, int(rng.integers(2, 12))) - ground)
        grain = rng.uniform(0, 30) * rng.standard_normal((height, width, int(rng.choice([1, 3]))), dtype=np.float32)
        ground = ground + grain
    return np.clip(ground, 0, 255)


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
    pixels = background(rng, split, height, width)
    labels = np.zeros((height, width), dtype=np.int64)
    things: dict[int, Thing] = {}
    count = int(rng.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15]))
    for index in rng.permutation(len(CLASSES))[:count].tolist():
        placed = _place(rng, CLASSES[index], labels, float(rng.uniform(*_HEIGHTS)))
        if placed is None:
            continue
        shape, x, y = placed
        wide, tall = shape.solid.size
        inside = np.asarray(shape.solid) >= 128
        ground = pixels[y : y + tall, x : x + wide][inside].mean(0)
        ink = _colour_away_from(rng, ground)
        fill = _colour_away_from(rng, ink)
        _paint(pixels, shape, x, y, fill, ink)
        labels[y : y + tall, x : x + wide][inside] = index + 1
        stroke = float((np.asarray(shape.ink) >= 128)[inside].mean())
        things[index] = Thing(index, _rgb(fill), _rgb(ink), stroke)
    order = tuple(things[index] for index in sorted(things))
    image = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    return Scene(image, labels, tuple(CLASSES[thing.index] for thing in order), order)


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    return cast(tuple[int, int, int], tuple(int(value) for value in colour.round()))


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width from 112 to 512 pixels, at most 1.6 to 1."""
    longer = int(rng.integers(112, 513))
    shorter = max(112, int(longer / rng.uniform(1, 1.6)))
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


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
    height, width = size or _size(rng)
    return _draw(rng, split, height, width)
