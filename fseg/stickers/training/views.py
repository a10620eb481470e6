"""Training views, drawn when they are needed: scenes of the training artists, stretched to the input of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fseg.stickers.descriptions import describe
from fseg.stickers.drawings import CLASSES, TRAINING
from fseg.stickers.scenes import PHOTOGRAPHS, Scene, Style, draw
from fseg.stickers.training.recolour import recoloured, relit

PLAIN = Style(TRAINING, PHOTOGRAPHS["train"])
"""Scenes as the world has them, by the training artists."""
VARIED = replace(PLAIN, turn=35.0, stretch=1.25, recolour=recoloured)
CROWDED = replace(VARIED, counts=(0.05, 0.05, 0.1, 0.15, 0.2, 0.2, 0.15, 0.1))
"""More stickers in a scene: more to learn from for the same work."""


@dataclass(frozen=True)
class Views:
    """A batch of scenes at one size."""

    images: UInt8[np.ndarray, "batch height width 3"]
    labels: UInt8[np.ndarray, "batch height width"]
    described: tuple[dict[int, str], ...]
    """For each scene: class number, counted from 0 -> the true description of that sticker."""


def stretched(example: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene's image and labels at another size."""
    labels = Image.fromarray(example.labels.astype(np.uint8))
    if labels.size == (width, height):
        return np.asarray(example.image), np.asarray(labels)
    image = example.image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image), np.asarray(labels.resize((width, height), Image.Resampling.NEAREST))


def _drawn_size(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    """Half of the scenes are drawn at the size asked for, the others at one from 0.8 to 1.6 times that, with other proportions."""
    if rng.random() < 0.5:
        return height, width
    scale, ratio = rng.uniform(1.0, 1.3), 1.25 ** rng.uniform(-1, 1)
    return round(height * scale * ratio), round(width * scale / ratio)


def views(rng: np.random.Generator, style: Style, count: int, height: int, width: int) -> Views:
    """`count` random scenes in a style, stretched to one size."""
    scenes = tuple(draw(rng, style, *_drawn_size(rng, height, width)) for _ in range(count))
    pairs = [stretched(each, height, width) for each in scenes]
    images, labels = (np.stack(each) for each in zip(*pairs, strict=True))
    return Views(images, labels, tuple({thing.index: describe(each, thing.name) for thing in each.things} for each in scenes))


class Supply:
    """Batches by step, the next one drawn by another process while this one is used.

    Args:
        draw: gives the batch of a step; a function of a module with its arguments bound (`functools.partial`).
        apart: draw in another process; otherwise each batch is drawn when it is asked for.
    """

    def __init__(self, draw: Callable[[int], Views], apart: bool = True) -> None:
        self._pool = get_context("spawn").Pool(1) if apart else None
        self._draw = draw
        self._next: tuple[int, AsyncResult[Views]] | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, step: int) -> Views:
        """The batch of a step; that of the next step is begun."""
        if self._pool is None:
            return self._draw(step)
        ready = self._next[1] if self._next and self._next[0] == step else self._pool.apply_async(self._draw, (step,))
        self._next = step + 1, self._pool.apply_async(self._draw, (step + 1,))
        return ready.get()

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()


def light(rng: np.random.Generator, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """The images, values 0 to 1, in other light."""
    return relit(rng, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


def coverage(labels: UInt8[np.ndarray, "batch height width"], cell: int) -> Float[Tensor, "batch cell label"]:
    """The share of each square cell of `cell` pixels that each label (0 background) covers."""
    batch, height, width = labels.shape
    rows, cols, count = height // cell, width // cell, len(CLASSES) + 1
    number = np.arange(height)[:, None] // cell * cols + np.arange(width)[None] // cell
    index = (number[None] + rows * cols * np.arange(batch)[:, None, None]) * count + labels
    found = np.bincount(index.ravel(), minlength=batch * rows * cols * count)
    return torch.from_numpy(found).view(batch, rows * cols, count).float() / cell**2
