"""What several fusions do to their maps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def share_of_peak(values: Float[Tensor, "row col"]) -> Float[Tensor, "row col"]:
    """The map as shares of its largest value; a map that is positive nowhere stays as it is.

    The refine stage compares responses with one threshold and with each other, so those of fusions without a natural scale get one.
    """
    peak = values.max()
    return values / peak if peak > 0 else values


def gaussian(maps: Float[Tensor, "map row col"], sigma: float) -> Float[Tensor, "map row col"]:
    """Each map smoothed by a Gaussian of 3 sigma in each direction, reflected at the edges; 0: as it is."""
    from scipy import ndimage  # imported with the first map: `import fseg` does not wait for SciPy

    if sigma == 0:
        return maps
    return torch.from_numpy(ndimage.gaussian_filter(maps.float().cpu().numpy(), (0, sigma, sigma), truncate=3.0))


def rank_gaussian(values: Float[Tensor, "row col"], size: int = 3) -> Float[Tensor, "row col"]:
    """Each cell as a weighted mean of its window's sorted values: the middle rank weighs most, the more so the less the values differ.

    The weights are a Gaussian over the ranks around the median; its sigma is the coefficient of variation, std / mean, of the window. A
    window whose mean is not positive gives 0, one whose values are all equal their value. Edges are reflected.
    """
    half, rows, cols = size // 2, *values.shape
    if min(rows, cols) <= half:  # nothing to reflect
        return values
    padded = torch.nn.functional.pad(values[None, None], (half,) * 4, mode="reflect")
    ranked = torch.nn.functional.unfold(padded, size)[0].sort(dim=0).values
    mean = ranked.mean(0)
    sigma = (ranked.std(0, correction=0) / mean.clamp(min=torch.finfo(mean.dtype).tiny)).clamp(min=1e-3)
    rank = torch.arange(len(ranked), dtype=ranked.dtype)[:, None] - len(ranked) // 2
    weights = torch.exp(-(rank**2) / (2 * sigma**2))
    filtered = (ranked * weights).sum(0) / weights.sum(0)
    return torch.where(mean > 0, filtered, 0.0).reshape(rows, cols)
