"""Training scenes, rendered once and stored as arrays in shards: drawing a scene takes longer than a training step on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from fseg.glyphs.scenes import Scene, Split, scene
from fseg.worlds.training.sam import padded

SHARD = 2500  # scenes
MOST = 4  # things in a scene


@dataclass(frozen=True)
class Shard:
    """A block of scenes at one size in pixels."""

    images: UInt8[np.ndarray, "scene height width 3"]
    labels: UInt8[np.ndarray, "scene height width"]
    things: Float32[np.ndarray, "scene 4 12"]
    """Per thing: class number (-1: none), fill RGB, ink RGB, stroke, then centre x, centre y, height and area as shares of the image."""


def measured(example: Scene) -> Float32[np.ndarray, "4 12"]:
    """The things of a scene in numbers, as `Shard.things` has them."""
    rows = np.full((MOST, 12), -1, dtype=np.float32)
    height, width = example.labels.shape
    for row, thing in zip(rows, example.things, strict=False):
        y, x = np.nonzero(example.labels == thing.index + 1)
        position = (
            (x.min() + x.max() + 1) / 2 / width,
            (y.min() + y.max() + 1) / 2 / height,
            (np.ptp(y) + 1) / height,
            len(x) / (height * width),
        )
        row[:] = (thing.index, *thing.fill, *thing.ink, thing.stroke, *position)
    return rows


def _varied_size(rng: np.random.Generator, lowest: int, highest: int) -> tuple[int, int]:
    longer = int(rng.integers(int(lowest * 1.2), highest + 1))
    shorter = max(lowest, int(longer / rng.uniform(1, 1.6)))
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


def square(image: Image.Image, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The whole image, stretched to a square: the input of the LLaVA."""
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _shard(number: int, split: Split, side: int, fit: str, count: int) -> Shard:
    sizes = np.random.default_rng([side, number])
    lowest, highest = (112, 256) if fit == "square" else (144, 320)
    images = np.zeros((count, side, side, 3), dtype=np.uint8)
    labels = np.zeros((count, side, side), dtype=np.uint8)
    things = np.zeros((count, MOST, 12), dtype=np.float32)
    for k in range(count):
        example = scene(number * count + k, split, _varied_size(sizes, lowest, highest))
        truth = Image.fromarray(example.labels.astype(np.uint8))
        if fit == "square":
            images[k] = square(example.image, side)
            labels[k] = np.asarray(truth.resize((side, side), Image.Resampling.NEAREST))
        else:
            images[k], labels[k] = padded(example.image, truth)
        things[k] = measured(example)
    return Shard(images, labels, things)


def write(folder: Path, numbers: range, split: Split = "train", side: int = 112, fit: str = "square", count: int = SHARD) -> None:
    """Render the shards of `count` scenes that do not exist yet. `fit` is "square" or "padded"."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        if (folder / f"things-{number:04d}.npy").exists():
            continue
        shard = _shard(number, split, side, fit, count)
        for name in ("images", "labels", "things"):  # things last: they mark the shard as complete
            part = folder / f".{name}-{number:04d}.{os.getpid()}.npy"
            np.save(part, getattr(shard, name))
            part.replace(folder / f"{name}-{number:04d}.npy")


def read(folder: Path) -> list[Shard]:
    """The complete shards of a folder, mapped into memory."""
    numbers = sorted(path.stem.split("-")[1] for path in folder.glob("things-*.npy"))
    return [
        Shard(*(np.load(folder / f"{name}-{number}.npy", mmap_mode="r") for name in ("images", "labels", "things"))) for number in numbers
    ]


def batches(shards: list[Shard], size: int, rng: np.random.Generator) -> Iterator[Shard]:
    """Random batches, endlessly; each comes from one shard."""
    while True:
        shard = shards[int(rng.integers(len(shards)))]
        chosen = np.sort(rng.choice(len(shard.things), size, replace=False))
        yield Shard(shard.images[chosen], shard.labels[chosen], shard.things[chosen])
