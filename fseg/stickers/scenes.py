"""Scenes: one to five stickers on a flat, graded, noisy, textured or photographic background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from fseg.errors import InvalidOption
from fseg.stickers.drawings import ARTISTS, CLASSES, canonical
from fseg.stickers.sprites import level, posed, sprites
from fseg.worlds.backgrounds import background, textured, varied_size

Split = Literal["train", "held-out"]

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": ("brick", "coins", "gravel", "ihc", "retina", "cell", "page", "moon", "rocket"),
    "held-out": ("grass", "text"),
}
"""scikit-image's photographs by split, without those that show one of the classes (cats, people, cups, horses, motorbikes, clocks)."""

_STREAMS = {"train": 0x73747261, "held-out": 0x73746865}  # the splits draw from different random streams
_INSIDE = 0.6  # the least share of a sticker that lies within the image
_VISIBLE = 0.5  # the least share of a sticker, as it lies alone in the image, that others leave visible
_SOLID = 128  # alpha from which a pixel belongs to a sticker

Recolour = Callable[[np.random.Generator, Image.Image], Image.Image]
"""Changes the colours of a sprite at random: mode RGBA to mode RGBA."""


@dataclass(frozen=True)
class Style:
    """What scenes are drawn with.

    Attributes:
        artists: who drew the stickers; one is drawn at random for each sticker.
        photographs: the names of the photographs that may lie behind.
        counts: the chances of 1, 2, ... stickers.
        lengths: the least and the largest length of a sticker, as a share of the image's shorter side.
        turn: the largest rotation in degrees.
        stretch: the largest factor by which stickers are widened or narrowed.
        recolour: a random change of a sprite's colours, None: as the artist drew it.
    """

    artists: tuple[str, ...]
    photographs: tuple[str, ...]
    counts: tuple[float, ...] = (0.2, 0.25, 0.25, 0.2, 0.1)
    lengths: tuple[float, float] = (0.15, 0.6)
    turn: float = 30.0
    stretch: float = 1.0
    recolour: Recolour | None = None


@dataclass(frozen=True)
class Thing:
    """One sticker of a scene, as it can be seen."""

    index: int
    """Class number, counted from 0."""
    artist: str
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of its visible pixels, the last two outside."""
    area: int
    """Visible pixels."""

    @property
    def name(self) -> str:
        """The class name."""
        return CLASSES[self.index]

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the middle of its box, in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    >>> scene(1).classes
    ('bus', 'motorbike', 'train', 'elephant', 'banana')
    """

    image: Image.Image
    """RGB."""
    labels: Int64[np.ndarray, "height width"]
    """0 background, i + 1 = CLASSES[i]."""
    classes: tuple[str, ...]
    """The names present, in the order of CLASSES."""
    things: tuple[Thing, ...] = ()
    """The stickers, in the order of CLASSES."""

    def thing(self, name: str) -> Thing:
        """The sticker of a class that is in the scene, by its name or a synonym.

        Raises:
            InvalidOption: there is no such class, or it is not in the scene.

        >>> scene(1).thing("motorcycle").artist
        'fluent-emoji-flat'
        """
        known = canonical(name)
        if known is None:
            raise InvalidOption(f"there is no class {name!r}; there are {', '.join(CLASSES)}.")
        if known not in self.classes:
            raise InvalidOption(f"there is no {known} in this scene; there are {', '.join(self.classes) or 'no stickers'}.")
        return self.things[self.classes.index(known)]


def _ground(rng: np.random.Generator, style: Style, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    if rng.random() < 0.15:
        return textured(rng, height, width)
    return background(rng, style.photographs, height, width)


def _sticker(rng: np.random.Generator, style: Style, name: str, length: float) -> tuple[Image.Image, str]:
    """A random drawing of a class in a random pose, and its artist."""
    artists = [artist for artist in style.artists if name in sprites(artist)]
    artist = str(rng.choice(artists))
    drawing = level(artist, name, int(rng.integers(len(sprites(artist)[name]))), length)
    if style.recolour is not None:
        drawing = style.recolour(rng, drawing)
    angle, mirror = float(rng.uniform(-style.turn, style.turn)), bool(rng.random() < 0.5)
    return posed(drawing, length, angle, mirror, float(style.stretch ** rng.uniform(-1, 1))), artist


def _window(shape: Image.Image, x: int, y: int, height: int, width: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the image that a shape at (x, y) covers, and rows and columns of the shape that lie in the image."""
    top, left = max(0, y), max(0, x)
    bottom, right = min(height, y + shape.height), min(width, x + shape.width)
    return slice(top, bottom), slice(left, right), slice(top - y, bottom - y), slice(left - x, right - x)


def _place(rng: np.random.Generator, solid: np.ndarray, shape: Image.Image, owner: np.ndarray, alone: list[int]) -> tuple[int, int] | None:
    """A top left corner at which enough of the shape lies in the image and it leaves enough of the others; None if no attempt succeeds."""
    height, width = owner.shape
    left = np.bincount(owner.ravel(), minlength=len(alone) + 1)[1:]
    for _ in range(12):
        x = int(rng.integers(-int(0.4 * shape.width), max(1, width - int(0.6 * shape.width))))
        y = int(rng.integers(-int(0.4 * shape.height), max(1, height - int(0.6 * shape.height))))
        rows, cols, inner_rows, inner_cols = _window(shape, x, y, height, width)
        inside = solid[inner_rows, inner_cols]
        if inside.sum() < _INSIDE * solid.sum():
            continue
        hidden = np.bincount(owner[rows, cols][inside], minlength=len(alone) + 1)[1:]
        if np.all(left - hidden >= _VISIBLE * np.array(alone)):
            return x, y
    return None


def _things(owner: np.ndarray, drawn: list[tuple[int, str]]) -> list[Thing]:
    """The stickers as they can be seen, in the order of CLASSES."""
    found = []
    for number, (index, artist) in sorted(enumerate(drawn), key=lambda each: each[1][0]):
        visible = owner == number + 1
        rows, cols = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
        found.append(Thing(index, artist, box, int(visible.sum())))
    return found


def draw(rng: np.random.Generator, style: Style, height: int, width: int) -> Scene:
    """A random scene in a style. Each class occurs at most once."""
    pixels = _ground(rng, style, height, width)
    owner = np.zeros((height, width), dtype=np.int64)
    drawn: list[tuple[int, str]] = []
    alone: list[int] = []
    names = [name for name in CLASSES if any(name in sprites(artist) for artist in style.artists)]
    count = 1 + int(rng.choice(len(style.counts), p=style.counts))
    for name in rng.permutation(names)[:count].tolist():
        length = max(8.0, min(height, width) * float(rng.uniform(*style.lengths)))
        shape, artist = _sticker(rng, style, name, length)
        painted = np.asarray(shape)
        solid = painted[..., 3] >= _SOLID
        at = _place(rng, solid, shape, owner, alone) if solid.sum() >= 12 else None
        if at is None:
            continue
        rows, cols, inner_rows, inner_cols = _window(shape, *at, height, width)
        paint = painted[inner_rows, inner_cols].astype(float)
        pixels[rows, cols] = pixels[rows, cols] * (1 - paint[..., 3:] / 255) + paint[..., :3]
        inside = solid[inner_rows, inner_cols]
        drawn.append((CLASSES.index(name), artist))
        alone.append(int(inside.sum()))
        owner[rows, cols][inside] = len(drawn)
    values = np.array([0, *(index + 1 for index, _ in drawn)])
    things = _things(owner, drawn)
    image = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    return Scene(image, values[owner], tuple(thing.name for thing in things), tuple(things))


def _artists(artist: str | None) -> tuple[str, ...]:
    chosen = tuple(name for name, each in ARTISTS.items() if each.shipped) if artist is None else (artist,)
    for name in chosen:
        sprites(name)  # says what is missing before anything is drawn
    return chosen


def scene(seed: int, artist: str | None = None, split: Split = "held-out", size: tuple[int, int] | None = None) -> Scene:
    """A scene; the same arguments give the same scene.

    Args:
        seed: any non-negative integer.
        artist: who drew the stickers, a name of ARTISTS. None: a mixture of the artists that the package ships.
        split: "train" or "held-out". The two share neither random numbers nor photographs.
        size: (height, width) in pixels. None: drawn from 112 to 512.

    Raises:
        InvalidOption: the seed is negative, there is no such artist or split, or the artist's drawings were not fetched.

    >>> scene(1).image.size, scene(1, size=(112, 160)).image.size
    ((448, 324), (160, 112))
    """
    if seed < 0:
        raise InvalidOption(f"seed={seed}: scenes are numbered from 0.")
    if split not in _STREAMS:
        raise InvalidOption(f"split {split!r} was asked for; there are {', '.join(map(repr, _STREAMS))}.")
    style = Style(_artists(artist), PHOTOGRAPHS[split])
    rng = np.random.default_rng([_STREAMS[split], seed, *(size or ())])
    height, width = size or varied_size(rng)
    return draw(rng, style, height, width)
