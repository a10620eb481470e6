"""Random colours: what an artist may do to a drawing without changing what it shows."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

_GREY = np.array([0.299, 0.587, 0.114])


def hue(rng: np.random.Generator, turn: float, saturation: float) -> Float[np.ndarray, "3 3"]:
    """A matrix that rotates colours about the grey axis by up to `turn` radians and scales their distance from it."""
    angle = rng.uniform(-turn, turn)
    cos, sin = np.cos(angle), np.sin(angle)
    third, root = 1 / 3, np.sqrt(1 / 3)
    off = third * (1 - cos)
    rotation = np.array(
        [
            [cos + off, off - root * sin, off + root * sin],
            [off + root * sin, cos + off, off - root * sin],
            [off - root * sin, off + root * sin, cos + off],
        ]
    )
    grey = np.tile(_GREY, (3, 1))
    return (saturation * np.eye(3) + (1 - saturation) * grey) @ rotation


def _outlined(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite with its border in one dark or light colour."""
    alpha = sprite.getchannel("A")
    inner = alpha.filter(ImageFilter.MinFilter(int(rng.choice([3, 5]))))
    line = Image.new("RGBA", sprite.size, tuple(int(value) for value in rng.choice([rng.integers(0, 70, 3), rng.integers(200, 256, 3)])))
    drawn = Image.composite(sprite, line, inner)
    drawn.putalpha(alpha)
    return drawn


def recoloured(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """A sprite with other colours: another hue, saturation, contrast and gamma, sometimes few levels, swapped channels, an outline or blur."""
    if rng.random() < 0.25:
        return sprite
    values = np.asarray(sprite).astype(np.float32) / 255
    colours = values[..., :3]
    if rng.random() < 0.8:
        strong = rng.random() < 0.4
        saturation = float(rng.choice([rng.uniform(0.3, 1.7), 0.0], p=[0.9, 0.1]))
        colours = colours @ hue(rng, np.pi if strong else 0.5, saturation).T
    if rng.random() < 0.1:
        colours = 1 - colours
    colours = (colours - 0.5) * rng.uniform(0.5, 1.5) + 0.5 + rng.uniform(-0.2, 0.2)
    colours = np.clip(colours, 0, 1) ** float(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.3:  # flat areas, as flat styles have them
        levels = int(rng.integers(2, 6))
        colours = np.round(colours * levels) / levels
    changed = Image.fromarray((np.concatenate([colours, values[..., 3:]], -1) * 255).round().astype(np.uint8))
    if rng.random() < 0.15:
        changed = _outlined(rng, changed)
    if rng.random() < 0.1:
        changed = changed.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 2))))
    return changed


def relit(rng: np.random.Generator, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Whole images, values 0 to 1, with other brightness, contrast and hue, and some noise; a quarter stay as they are."""
    count = len(images)
    matrices = np.stack([hue(rng, 0.4, rng.uniform(0.5, 1.4)) for _ in range(count)])
    for k in range(count):
        if rng.random() < 0.1:
            matrices[k] = matrices[k][rng.permutation(3)]
    gain, lift = rng.uniform(0.6, 1.4, (count, 1, 1)), rng.uniform(-0.15, 0.15, (count, 3, 1))
    kept = rng.random(count) < 0.25
    matrices[kept], gain[kept], lift[kept] = np.eye(3), 1.0, 0.0
    turn, offset = (torch.from_numpy(each).float() for each in (matrices * gain, 0.5 * (1 - gain) + lift))
    changed = torch.baddbmm(offset, turn, images.flatten(2)).clamp(0, 1).view_as(images)
    grain = torch.from_numpy(rng.standard_normal(images.shape[1:], dtype=np.float32))
    strength = torch.from_numpy(np.where(kept, 0, rng.uniform(0, 0.06, count))).float().view(-1, 1, 1, 1)
    return changed + strength * grain
