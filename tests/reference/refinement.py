"""Section 3.4, the visual generation module: from the response maps of all classes to masks and prompts (Eq. 9 to 12)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.reference.response import EIGHT_NEIGHBOURS, Floats, Mask


def eq9_guidance(background: float, responses: Sequence[Floats]) -> NDArray[np.int64]:
    """Eq. 9, M^_f: the largest of the background's response and the classes' in each cell; 0 is the background, i + 1 class i.

    Equal responses go to the background, then to the class that was named first [open]: np.argmax takes the first.
    """
    stacked = np.stack([np.full_like(responses[0], background), *responses])
    return np.asarray(np.argmax(stacked, axis=0))


def eq10_prototypes(features: Floats, region: Mask, epsilon: float) -> tuple[Floats, Floats]:
    """Eq. 10, p+ and p-: the mean feature inside and outside of a class's region.

    `features` is F_v, (cell, feature); `region` is 1[M^_f = c], (cell,). Each prototype is (feature,).
    """
    inside = (features * region[:, None]).sum(axis=0) / (region.sum() + epsilon)
    outside = (features * ~region[:, None]).sum(axis=0) / ((~region).sum() + epsilon)
    return inside, outside


def cosine(features: Floats, prototype: Floats) -> Floats:
    """The cosine of each feature and the prototype; 0 for a prototype of nothing."""
    length = np.linalg.norm(prototype)
    if length == 0:
        return np.zeros(len(features))
    return np.asarray(features @ prototype / (np.linalg.norm(features, axis=1) * length))


def eq11_prototype_mask(features: Floats, inside: Floats, outside: Floats) -> Mask:
    """Eq. 11, M_v: where a feature is closer to p+ than to p-; nowhere, if p+ is the mean of nothing [open]."""
    if not inside.any():
        return np.zeros(len(features), dtype=bool)
    return np.asarray(cosine(features, inside) > cosine(features, outside))


def eq12_refined(prototype_mask: Mask, region: Mask) -> Mask:
    """Eq. 12, M_r: the cells on which the prototypes and the response maps agree."""
    return prototype_mask & region


def valid_components(refined: Mask, smallest: int) -> list[NDArray[np.int64]]:
    """Section 3.4, the denoised mask: its 8-connected components of at least `smallest` cells, each as (row, col) of its cells.

    The largest stays if all are smaller [open].
    """
    labelled, count = ndimage.label(refined, structure=EIGHT_NEIGHBOURS)
    components = [np.argwhere(labelled == number) for number in range(1, count + 1)]
    valid = [component for component in components if len(component) >= smallest]
    return valid or sorted(components, key=len, reverse=True)[:1]


def points(components: Sequence[NDArray[np.int64]], grid: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Section 3.4, S_p: the centroid of each component as (x, y) in pixels of the image; `size` is its (height, width)."""
    centroids = np.array([component.mean(axis=0) for component in components]).reshape(-1, 2)
    rows, cols = centroids.T
    return np.stack([(cols + 0.5) * size[1] / grid[1] - 0.5, (rows + 0.5) * size[0] / grid[0] - 0.5], axis=1)


def box(refined: Mask, size: tuple[int, int]) -> Floats:
    """Section 3.4, S_b: the smallest rectangle around all of M_r, as (x0, y0, x1, y1) of its corner pixels."""
    rows, cols = np.nonzero(refined)
    tall, wide = size[0] / refined.shape[0], size[1] / refined.shape[1]
    return np.array([cols.min() * wide, rows.min() * tall, (cols.max() + 1) * wide - 1, (rows.max() + 1) * tall - 1])
