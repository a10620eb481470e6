"""The twenty glyphs, as images of their ink and of their silhouette."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

GLYPHS: dict[str, str] = {
    "airplane": "\u2708",
    "umbrella": "\u2602",
    "cat": "\U0001f431",
    "cow": "\U0001f42e",
    "mouse": "\U0001f42d",
    "monkey": "\U0001f435",
    "star": "\u2605",
    "heart": "\u2665",
    "sun": "\u2600",
    "cloud": "\u2601",
    "snowman": "\u2603",
    "desk telephone": "\u260e",
    "hot cup": "\u2615",
    "skull": "\u2620",
    "horse": "\u265e",
    "ship anchor": "\u2693",
    "gear": "\u2699",
    "signal flag": "\u2691",
    "scissors": "\u2702",
    "paper envelope": "\u2709",
}
"""Class name -> character. Some names have two words, so that names of several tokens occur."""

_LEVELS = (24, 36, 54, 80, 120, 180, 270, 400)
"""Heights in pixels at which glyphs are rasterised; the next larger one is reduced to the height asked for."""


@dataclass(frozen=True)
class Glyph:
    """One glyph, cropped to its bounding box: 8-bit coverage of its strokes (ink) and of its silhouette without holes (solid)."""

    ink: Image.Image
    solid: Image.Image


def font_file() -> Path:
    """The file of DejaVu Sans, which matplotlib brings: the glyphs and the legends are drawn in it."""
    import matplotlib  # only for its font: `import fseg` does not wait for it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _fill_holes(coverage: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Coverage of the silhouette: the strokes and the areas that they enclose."""
    from scipy.ndimage import binary_fill_holes  # imported with the first glyph: `import fseg` does not wait for SciPy

    inside = binary_fill_holes(coverage > 0.5)
    return np.where(inside, np.maximum(coverage, (inside & (coverage <= 0.5)).astype(float)), coverage)


@cache
def glyph(name: str, height: int) -> Glyph:
    """The glyph of a class, rasterised at the given height in pixels."""
    character = GLYPHS[name]
    font = ImageFont.truetype(str(font_file()), 4 * height)
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), character, fill=255, font=font)
    box = canvas.getbbox()
    assert box is not None, f"the font has no glyph for {name}"
    ink = canvas.crop(box)
    solid = Image.fromarray((_fill_holes(np.asarray(ink) / 255.0) * 255).round().astype(np.uint8))
    size = (max(1, round(ink.width * height / ink.height)), height)
    return Glyph(ink.resize(size, Image.Resampling.BOX), solid.resize(size, Image.Resampling.BOX))


def posed(name: str, height: float, angle: float, mirror: bool) -> Glyph:
    """A glyph of `height` pixels, optionally mirrored, then rotated by `angle` degrees counter-clockwise and cropped to its new box."""
    level = next((h for h in _LEVELS if h >= height), _LEVELS[-1])
    master = glyph(name, level)
    scale = height / level

    both = Image.merge("LA", (master.ink, master.solid))
    both = both.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else both
    both = both.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    bands = (
        band.resize((max(1, round(band.width * scale)), max(1, round(band.height * scale))), Image.Resampling.BILINEAR)
        for band in both.split()
    )
    ink, solid = bands
    box = solid.point(lambda value: 255 if value >= 128 else 0).getbbox() or (0, 0, *solid.size)
    return Glyph(ink.crop(box), solid.crop(box))
