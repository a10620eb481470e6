"""Eq. 13 with segment-anything's own predictor, and the label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.reference.response import Floats


def eq13_masks(predictor: Any, image: Image.Image, prompts: Sequence[tuple[Floats, Floats]]) -> list[tuple[Floats, float]]:
    """Eq. 13, M_sam: for each class the logits of a mask over the image, (height, width), and the predicted IoU.

    One call for each class, with all of its points and its box. One mask is asked for, since a box leaves no doubt [open].
    """
    predictor.set_image(np.asarray(image.convert("RGB")))
    found = []
    for points, box in prompts:
        logits, scores, _ = predictor.predict(
            point_coords=points, point_labels=np.ones(len(points)), box=box, multimask_output=False, return_logits=True
        )
        found.append((logits[0].astype(np.float64), float(scores[0])))
    return found


def upsampled(cells: Floats, size: tuple[int, int]) -> Floats:
    """A map of cells (row, col) at the pixels of an image, linear between the cells' centres and constant beyond the outer ones."""

    def along(values: Floats, axis: int) -> Floats:
        count = values.shape[axis]
        centres = (np.arange(count) + 0.5) / count
        pixels = (np.arange(size[axis]) + 0.5) / size[axis]
        return np.apply_along_axis(lambda line: np.interp(pixels, centres, line), axis, values)

    return along(along(cells, 0), 1)


def label_map(logits: Sequence[Floats], distances: Sequence[Floats], labels: Sequence[int], size: tuple[int, int]) -> NDArray[np.int64]:
    """One class for each pixel [open]: of the masks over it the one with the largest sigmoid of its logit times D~; 0 where there is none."""
    best = np.full(size, -1.0)
    chosen = np.zeros(size, dtype=np.int64)
    for logit, distance, label in zip(logits, distances, labels, strict=True):
        score = np.where(logit > 0, np.maximum(upsampled(distance, size), 0.0) / (1.0 + np.exp(-logit)), -1.0)
        chosen[score > best] = label
        best = np.maximum(best, score)
    return chosen
