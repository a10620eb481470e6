"""Result: the labels of one image, and all that led to them; Failure: why there are none."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save as to_safetensors

from fseg import strict_json
from fseg.drawing.figures import overlay, panel, save_labels
from fseg.evidence import Evidence
from fseg.files import write_atomically
from fseg.recipe import Recipe

RESULT = "result.json"
"""The file that says of a folder that it is one of ours: it is written first."""

PACKAGES = ("fseg-llava", "torch", "transformers", "nnsight", "segment-anything")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One segmented image.

    Attributes:
        image: the picture, RGB.
        labels: int64 (height, width); 0 is background, i + 1 is `classes[i]`.
        classes: the names that were asked for, in order.
        evidence: for each class what it left behind on its way.
        recipe: how it was made.
        models: which models answered.
        found: for each class SAM's mask, or None where it has none; see `masks`.
    """

    image: Image.Image
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]
    evidence: Mapping[str, Evidence]
    recipe: Recipe
    models: Mapping[str, str]
    found: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]] | None]

    def __repr__(self) -> str:
        height, width = self.labels.shape
        found = shorten(", ".join(self.present), 60, placeholder=" ...") or "none"
        count = f"{len(self.present)} of {len(self.classes)} classes present: {found}"
        return f"Result({width} x {height} pixels, {count}; recipe {self.recipe.name!r})"

    @property
    def masks(self) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
        """For each class SAM's mask, bool (height, width), before overlaps were settled; all False for a class without one."""
        empty = np.zeros(self.labels.shape, dtype=np.bool_)
        return {name: empty if (mask := self.found[name]) is None else mask for name in self.classes}

    @property
    def present(self) -> tuple[str, ...]:
        """The classes that the model said yes to."""
        return tuple(name for name in self.classes if self.evidence[name].present)

    def plot(self) -> Figure:
        """The picture, its labels, and for each class present the maps that led to them."""
        return panel(self.image, self)

    def overlay(self) -> Image.Image:
        """The picture with its labels drawn over it."""
        return overlay(self.image, self.labels, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """The result without its maps, as plain values: what `result.json` holds."""
        areas = {name: int((self.labels == i + 1).sum()) for i, name in enumerate(self.classes)}
        return {
            "image_size": list(self.labels.shape),
            "classes": [_class_to_dict(self.evidence[name], i + 1, areas[name]) for i, name in enumerate(self.classes)],
            "recipe": self.recipe.to_dict(),
            "models": dict(self.models),
            "versions": versions(),
        }

    def save(self, folder: str | Path) -> Path:
        """Write `labels.png` (palette; pixel value = label), `overlay.png`, `result.json`, `evidence.safetensors` and `recipe.toml`.

        `evidence.safetensors` holds each class's maps under "<index>/<map>", the index being the class's in `classes`; `result.json` has
        the names. Each file is written whole or not at all.

        Raises:
            OutputError: the folder cannot be made or written.
            NotFinite: a margin, a score or a point is NaN or infinite; nothing is written.
        """
        target = Path(folder)
        described = strict_json.dump(self.to_dict(), indent=2)
        maps = {
            # A map may be another one by construction (with fusion "D" the response is the distance); a file holds each by itself.
            f"{i}/{kind}": values.clone(memory_format=torch.contiguous_format)
            for i, name in enumerate(self.classes)
            for kind, values in self.evidence[name].maps().items()
        }
        write_atomically(target / RESULT, lambda file: file.write(described))
        save_labels(target / "labels.png", self.labels)
        write_atomically(target / "overlay.png", lambda file: self.overlay().save(file, "PNG"))
        write_atomically(
            target / "evidence.safetensors", lambda file: file.write(to_safetensors(maps, {"classes": json.dumps(list(self.classes))}))
        )
        write_atomically(target / "recipe.toml", lambda file: file.write(self.recipe.to_toml().encode()))
        return target


@dataclass(frozen=True)
class Failure:
    """An image that could not be segmented.

    Attributes:
        image: what was given.
        error: why.
    """

    image: Any
    error: Exception

    def __str__(self) -> str:
        name = str(self.image) if isinstance(self.image, (str, Path)) else type(self.image).__name__
        return f"{name}: {type(self.error).__name__}: {self.error}"


def versions() -> dict[str, str]:
    """The versions that made a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _class_to_dict(e: Evidence, label: int, area: int) -> dict[str, Any]:
    return {
        "name": e.name,
        "label": label,
        "asked_as": e.asked_as,
        "present": e.present,
        "answer": e.answer,
        "margin": e.margin,
        "points": [list(point) for point in e.points],
        "box": list(e.box) if e.box is not None else None,
        "area": area,
        "score": e.score,
        "flags": list(e.flags),
    }
