"""The list of dicts that Hugging Face's image-segmentation pipeline returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from PIL import Image

from fseg.export.masks import ClassMask


class Segment(TypedDict):
    """One entry of the pipeline's list."""

    score: float | None
    label: str
    mask: Image.Image


def segments(masks: Iterable[ClassMask]) -> list[Segment]:
    """The masks as images of mode L, 255 inside and 0 outside."""
    return [{"score": one.score, "label": one.name, "mask": Image.fromarray(one.mask.astype(np.uint8) * 255)} for one in masks]
