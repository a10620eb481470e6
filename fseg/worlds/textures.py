"""Drawn textures of things without a shape: sky, grass, water, brick and sand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

Pixels = Float[np.ndarray, "height width 3"]


def _noise(rng: np.random.Generator, height: int, width: int, sigma: tuple[float, float]) -> Float[np.ndarray, "height width"]:
    """Smooth noise of standard deviation 1; `sigma` is the size of its spots in pixels, down and across."""
    smooth = gaussian_filter(rng.standard_normal((height, width)), sigma, mode="wrap")
    return (smooth - smooth.mean()) / smooth.std()


def _shade(rng: np.random.Generator, colour: tuple[int, int, int], spread: float = 12.0) -> Float[np.ndarray, "3"]:
    """A colour near to another."""
    return np.asarray(colour, float) + rng.normal(0, spread, 3)


def _sky(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """From deep to pale blue, with clouds."""
    down = np.linspace(0, 1, height)[:, None, None]
    ground = _shade(rng, (70, 130, 215)) * (1 - down) + _shade(rng, (175, 210, 245)) * down
    clouds = np.clip(_noise(rng, height, width, (height / 14, width / 6)) * 0.5 - rng.uniform(0, 0.6), 0, 0.9)[..., None]
    return ground * (1 - clouds) + 250 * clouds


def _grass(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Upright blades in greens."""
    blades = _noise(rng, height, width, (max(height, width) / 45, 0.7))[..., None]
    patches = _noise(rng, height, width, (height / 8, width / 8))[..., None]
    return _shade(rng, (80, 145, 50)) + blades * np.array([22, 34, 14]) + patches * np.array([12, 12, 4])


def _water(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Level ripples that bend, with glints."""
    bend = _noise(rng, height, width, (height / 12, width / 5))
    y = np.arange(height)[:, None] / max(3.0, height * rng.uniform(0.025, 0.05))
    waves = np.sin(2 * np.pi * y + 1.6 * bend)[..., None]
    glints = np.clip(waves - 0.8, 0, 1) * 4
    return _shade(rng, (30, 105, 125)) + waves * np.array([14, 24, 26]) + glints * 60


def _brick(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Courses of bricks, each of its own red, in light joints."""
    tall = max(6, round(min(height, width) * rng.uniform(0.06, 0.1)))
    wide, joint = round(2.4 * tall), max(1, round(tall * 0.14))
    row = np.arange(height) // tall
    shifted = np.arange(width)[None] + (row % 2)[:, None] * (wide // 2)
    number = row[:, None] * 997 + shifted // wide
    tone = rng.normal(0, 16, 1009)[number % 1009][..., None]
    wall = _shade(rng, (160, 70, 52)) + tone + _noise(rng, height, width, (0.6, 0.6))[..., None] * 6
    in_joint = ((np.arange(height) % tall < joint)[:, None] | (shifted % wide < joint))[..., None]
    return np.where(in_joint, _shade(rng, (200, 192, 180)), wall)


def _sand(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Fine grain on wide dunes."""
    grain = _noise(rng, height, width, (0.5, 0.5))[..., None]
    dunes = _noise(rng, height, width, (height / 12, width / 4))[..., None]
    return _shade(rng, (216, 188, 134)) + grain * 16 + dunes * np.array([14, 13, 12])


_DRAWN: dict[str, Callable[[np.random.Generator, int, int], Pixels]] = {
    "sky": _sky,
    "grass": _grass,
    "water": _water,
    "brick": _brick,
    "sand": _sand,
}

TEXTURES: tuple[str, ...] = tuple(_DRAWN)
"""The names that `texture` takes."""


def texture(name: str, rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """A random image of one of `TEXTURES`, values 0 to 255.

    >>> texture("sand", np.random.default_rng(0), 20, 30).shape
    (20, 30, 3)
    """
    return np.clip(_DRAWN[name](rng, height, width), 0, 255)
