"""Backgrounds of scenes: flat, graded, noisy, or a window of one of scikit-image's photographs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


@cache
def _photograph(name: str) -> UInt8[np.ndarray, "height width 3"]:
    import skimage.data  # imported with the first photograph: `import fseg` does not wait for scikit-image

    folder = Path(skimage.data.__file__).parent
    with Image.open(next(folder.glob(name + ".*"))) as photograph:
        return np.asarray(photograph.convert("RGB"))


def colours(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Random colours; corners of the RGB cube are more frequent than in a uniform draw, as in drawings."""
    uniform = rng.uniform(0, 255, (count, 3))
    corners = np.where(uniform > 127, 255, 0) + rng.normal(0, 25, (count, 3))
    return np.clip(np.where(rng.random((count, 1)) < 0.5, uniform, corners), 0, 255)


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


def ramp(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "height width"]:
    """A plane that rises from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    plane = np.cos(angle) * np.linspace(-1, 1, width)[None] + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
    return (plane - plane.min()) / np.ptp(plane)


def background(rng: np.random.Generator, photographs: tuple[str, ...], height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """A background, values 0 to 255.

    Args:
        photographs: the names of those that may be used.
    """
    kind = rng.choice(["flat", "gradient", "noise", "photograph"], p=[0.2, 0.2, 0.2, 0.4])
    if kind == "photograph":
        return _crop(rng, _photograph(str(rng.choice(photographs))), height, width)
    first, second = colours(rng, 2)
    ground = np.broadcast_to(first, (height, width, 3))
    if kind == "gradient":
        share = ramp(rng, height, width)[..., None]
        ground = ground * (1 - share) + second * share
    if kind == "noise":
        ground = ground + rng.uniform(0.2, 0.8) * (_smooth_noise(rng, height, width, int(rng.integers(2, 12))) - ground)
        grain = rng.uniform(0, 30) * rng.standard_normal((height, width, int(rng.choice([1, 3]))), dtype=np.float32)
        ground = ground + grain
    return np.clip(ground, 0, 255)


def textured(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Stripes, checks or dots in two random colours, values 0 to 255."""
    kind = rng.choice(["stripes", "checks", "dots"])
    period = float(rng.uniform(0.04, 0.25)) * min(height, width)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:height, 0:width] / period
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if kind == "stripes":
        wave = np.sin(2 * np.pi * u)
    elif kind == "checks":
        wave = np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)
    else:
        wave = rng.uniform(0.2, 0.45) - np.hypot(u % 1 - 0.5, v % 1 - 0.5)
    share = np.clip(wave * rng.uniform(1, 12) + 0.5, 0, 1)[..., None]  # soft or hard edges
    first, second = colours(rng, 2)
    return first * (1 - share) + second * share


def varied_size(rng: np.random.Generator, shortest: int = 112, longest: int = 512) -> tuple[int, int]:
    """Height and width, at most 1.6 to 1."""
    longer = int(rng.integers(shortest, longest + 1))
    shorter = max(shortest, int(longer / rng.uniform(1, 1.6)))
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
