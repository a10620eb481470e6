"""Where the description attends to the image: A_v and M_A, Eq. 6 and 7, from the attention rows of lowest spatial entropy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

ENTROPIES = {"probability": 0.0, "reference": 0.001}
"""By mode, the value above which a cell belongs to a component: 0, or the absolute threshold of the work that the paper follows [15]."""


_EIGHT_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)  # in (map, row, col): cells touch within a map, never across maps
_EIGHT_NEIGHBOURS[1] = True
CELLS_AT_ONCE = 1 << 23
"""The most cells that are labelled together: the maps of every head of a 32-layer model would take gigabytes."""


def spatial_entropy(maps: Float[Tensor, "map row col"], mode: str = "probability", mean_factor: float = 1.0) -> Float[Tensor, " map"]:
    """The spatial entropy of each map in nats: 0 for a single blob, higher for scattered mass, +inf for a flat map.

    B = relu(a - mean_factor x mean a); p is the share of B's mass in each 8-connected component of B > threshold; the entropy is -sum p ln p.

    Args:
        mode: "probability" counts every cell above the mean; "reference" follows the work that the paper cites: a cell belongs to a
            component where B > 0.001, and the mass outside the components still counts in the total, so that the shares may sum to less
            than 1.
        mean_factor: 1 as the cited work has it; public ports of it subtract twice the mean.

    Returns:
        float64 on the CPU.
    """
    values = maps.detach().double().cpu().numpy()
    at_once = max(1, CELLS_AT_ONCE // max(1, values[0].size)) if len(values) else 1
    parts = [_entropies(values[start : start + at_once], ENTROPIES[mode], mean_factor) for start in range(0, len(values), at_once)]
    return torch.from_numpy(np.concatenate(parts or [np.zeros(0)]))


def _entropies(maps: NDArray[np.float64], threshold: float, mean_factor: float) -> NDArray[np.float64]:
    from scipy import ndimage  # imported with the first map: `import fseg` does not wait for SciPy

    above = np.maximum(maps - mean_factor * maps.mean(axis=(1, 2), keepdims=True), 0)
    labels, components = ndimage.label(above > threshold, structure=_EIGHT_NEIGHBOURS)
    mass = np.bincount(labels.ravel(), weights=above.ravel(), minlength=components + 1)[1:]
    owner = np.zeros(components + 1, dtype=np.intp)
    owner[labels.reshape(len(maps), -1)] = np.arange(len(maps))[:, None]
    owner = owner[1:]
    # Summed component by component, so that the share of a lone component is exactly 1 and ties stay ties.
    outside = np.where(labels == 0, above, 0).sum(axis=(1, 2))
    total = np.bincount(owner, weights=mass, minlength=len(maps)) + outside
    share = mass / total[owner]
    entropy = np.bincount(owner, weights=-share * np.log(share), minlength=len(maps))
    return np.where(np.bincount(owner, minlength=len(maps)) > 0, entropy, np.inf)


def select_rows(
    rows: Float[Tensor, "map row col"],
    top_k: int = 10,
    *,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
    mean_factor: float = 1.0,
) -> Int[Tensor, " kept"]:
    """The indices of the `top_k` attention rows of lowest spatial entropy, best first.

    Ties go to the larger mass, then to the row that comes first (lower layer, lower head, lower token). Rows of infinite entropy are never
    kept, so there may be fewer.

    Args:
        rows: attention from one text token to the image cells each, ordered by layer, then head, then token.
        drop_light_rows: leave out, first, the rows whose mass on the image is below the median.
        drop_sinks: leave out, next, the rows with over half of their mass in one cell.
        entropy, mean_factor: of `spatial_entropy`.
    """
    mass = rows.sum(dim=(1, 2), dtype=torch.float64).cpu().numpy()
    kept = np.ones(len(rows), dtype=bool)
    if drop_light_rows and len(rows):
        kept &= mass >= np.median(mass)
    if drop_sinks and len(rows):
        kept &= rows.amax(dim=(1, 2)).double().cpu().numpy() <= mass / 2
    candidates = np.flatnonzero(kept)
    scattered = spatial_entropy(rows[torch.from_numpy(candidates).to(rows.device)], entropy, mean_factor).numpy()
    candidates, scattered = candidates[np.isfinite(scattered)], scattered[np.isfinite(scattered)]
    order = np.lexsort((candidates, -mass[candidates], scattered))
    return torch.from_numpy(candidates[order[:top_k]])


def attention_map(rows: Float[Tensor, "kept row col"]) -> Float[Tensor, "row col"]:
    """A_v of Eq. 6: the mean of the rows kept."""
    return rows.float().mean(0)


def attention_mask(attention: Float[Tensor, "row col"]) -> Bool[Tensor, "row col"]:
    """M_A of Eq. 7: where the attention exceeds its own mean."""
    return attention > attention.mean()
