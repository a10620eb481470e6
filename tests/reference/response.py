"""Section 3.3, the text-visual response module: from hidden states and attention to a response map (Eq. 3 to 8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def eq3_distance(image: Floats, token: Floats) -> Floats:
    """Eq. 3, D~: the cosine of each image token and the class token, averaged over the layers l_s to l_e.

    `image` is F^l(v_i), (layer, cell, feature); `token` is F^l(t_c), (layer, feature). Returns (cell,).
    """
    products = np.einsum("lvd,ld->lv", image, token)
    lengths = np.linalg.norm(image, axis=2) * np.linalg.norm(token, axis=1)[:, None]
    return np.asarray((products / lengths).mean(axis=0))


def eq4_threshold(distance: Floats, alpha: float, beta: float) -> float:
    """Eq. 4, tau: a share of the largest distance, at most beta."""
    return float(min(alpha * distance.max(), beta))


def eq5_confident(distance: Floats, threshold: float) -> Floats:
    """Eq. 5, D: the distance where it is above tau, 0 elsewhere."""
    return np.where(distance > threshold, distance, 0.0)


def spatial_entropy(row: Floats, grid: tuple[int, int]) -> float:
    """The criterion of the cited work [15]: the entropy of how a map's mass is shared out over its blobs.

    Of the map, what lies above its mean counts. Its 8-connected components are the blobs, and their masses, as shares of the whole, the
    probabilities. A map without a blob is the worst of all [open].
    """
    above = np.maximum(row - row.mean(), 0.0).reshape(grid)
    components, count = ndimage.label(above > 0, structure=EIGHT_NEIGHBOURS)
    if count == 0:
        return float("inf")
    masses = ndimage.sum_labels(above, components, index=range(1, count + 1))
    shares = masses / masses.sum()
    return float(-(shares * np.log(shares)).sum())


def top_k(rows: Floats, k: int, grid: tuple[int, int]) -> list[int]:
    """The indices of A^Top: the k rows of least spatial entropy among those whose mass is not below the median [open].

    `rows` is (row, cell), by layer, then by token. Equal entropies: the larger mass first, then the lower layer and token [open].
    """
    mass = rows.sum(axis=1)
    kept = np.flatnonzero(mass >= np.median(mass))
    return sorted(kept.tolist(), key=lambda row: (spatial_entropy(rows[row], grid), -mass[row], row))[:k]


def eq6_attention(rows: Floats, chosen: Sequence[int]) -> Floats:
    """Eq. 6, A_v: the mean of the chosen rows. Returns (cell,)."""
    return np.asarray(rows[list(chosen)].mean(axis=0))


def eq7_attention_mask(attention: Floats) -> Mask:
    """Eq. 7, M_A: where A_v is above its mean."""
    return np.asarray(attention > attention.mean())


def eq8_response(confident: Floats, attention_mask: Mask) -> Floats:
    """Eq. 8, D_f: D where M_A holds, 0 elsewhere."""
    return confident * attention_mask


def background_response(responses: Sequence[Floats], alpha: float, beta: float) -> float:
    """The text below Eq. 8, D_f^bg: Eq. 4 over the responses of all classes of the image, one number."""
    return float(min(alpha * max(response.max() for response in responses), beta))
