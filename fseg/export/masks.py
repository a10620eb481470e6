"""The mask of one class, which every export starts from; and the packages that some exports need."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
from jaxtyping import Bool

from probe.errors import PackageNeeded


@dataclass(frozen=True, eq=False)
class ClassMask:
    """A class that has a mask of at least one pixel.

    Attributes:
        name: the class.
        label: its place in the list of classes, from 1: its label in the label map.
        mask: the class's own mask, which may overlap others; bool.
        score: the IoU that SAM predicts for the mask; None if it is not known.
    """

    name: str
    label: int
    mask: Bool[np.ndarray, "height width"]
    score: float | None

    @property
    def area(self) -> int:
        """The pixels of the mask."""
        return int(self.mask.sum())


def needed_package(name: str, asked: str) -> ModuleType:
    """A package of the extra `[export]`.

    Args:
        name: the module to import.
        asked: what needs it, for the message.

    Raises:
        PackageNeeded: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise PackageNeeded(f"{asked} needs {name.partition('.')[0]}, which is not installed: pip install 'fseg-llava[export]'.") from error
