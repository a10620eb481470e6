"""Maps for the page: quantised to one byte a value, and described by one number each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

STEPS = 128
"""Between the smallest and the largest value of a map. A rounded value is off by at most 1/256 of the range: within the 1/255 that eight
bits give, at seven eighths of the bytes, which the compression saves."""


@dataclass(frozen=True, eq=False)
class QuantisedMaps:
    """Maps of a byte a value, each over its own range.

    Attributes:
        values: uint8, (..., cell), from 0 at the map's smallest value to `STEPS` at its largest.
        low, high: float32, (...): those two.
    """

    values: NDArray[np.uint8]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


def quantise(maps: Float[Tensor, "*map cell"]) -> QuantisedMaps:
    """Maps as bytes: value = low + byte / STEPS x (high - low), within 1/256 of each map's range.

    >>> quantised = quantise(torch.tensor([[0.0, 0.25, 1.0], [3.0, 3.0, 3.0]]))
    >>> quantised.values.tolist(), quantised.low.tolist()
    ([[0, 32, 128], [0, 0, 0]], [0.0, 3.0])
    """
    values = maps.detach().float().cpu()
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (values - low) / span.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return QuantisedMaps((scaled * STEPS).round().to(torch.uint8).numpy(), low.squeeze(-1).numpy(), high.squeeze(-1).numpy())


def spatial_entropy(maps: Float[Tensor, "map row col"]) -> Float[Tensor, " map"]:
    """How scattered each map is, in nats: 0 for a single blob, +inf for a flat map.

    What lies above a map's mean falls into blobs of cells that touch, also at a corner; p is the share of each blob, the entropy -sum p ln p.

    >>> spatial_entropy(torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])).tolist()
    [0.0, 0.6931471824645996]
    """
    values = maps.detach().float().cpu()
    above = (values - values.mean((1, 2), keepdim=True)).clamp(min=0)
    inside = above > 0
    cells = above[0].numel() if len(above) else 0
    # Each cell takes the largest label that touches it, then the label that the cell of that label has meanwhile, until a blob has one.
    labels = torch.arange(1, cells + 1, dtype=torch.float32).reshape(1, *values.shape[1:]) * inside
    while not torch.equal(grown := max_pool2d(labels, 3, stride=1, padding=1) * inside, labels):
        known = pad(grown.flatten(1), (1, 0))
        labels = known.gather(1, grown.flatten(1).long()).reshape(grown.shape)
    blobs = torch.zeros(len(values), cells + 1).scatter_add_(1, labels.flatten(1).long(), above.flatten(1))
    total = blobs.sum(1)
    share = blobs / total.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return torch.where(total > 0, torch.special.entr(share).sum(1), torch.inf)
