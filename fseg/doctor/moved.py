"""How far a reading moves what the recipe gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fseg.evidence import Evidence
from probe.tracing.activation.pixels import upsample

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Moved:
    """What differs between two pieces of evidence for one class in one image. None: one of them lacks it.

    Attributes:
        present: whether the model said yes under the reading.
        largest, mean: of the absolute difference of D~ over the image's pixels; of the fusion's response where it has no D~.
        mask: the IoU of both M_r on the image's pixels; 1 where both are empty.
        points: pixels; the largest distance of a point of either to the nearest one of the other.
        box: the IoU of the boxes, whose corners are inside them.
    """

    present: bool
    largest: float | None = None
    mean: float | None = None
    mask: float | None = None
    points: float | None = None
    box: float | None = None


def moved(base: Evidence, other: Evidence, resamples: tuple[str, str] = ("bilinear", "bilinear")) -> Moved:
    """The differences, on the pixels of the image: grids may differ.

    Args:
        resamples: the `compose.resample` of each, by which its D~ gets the size of the image.
    """
    before, after = (_response(e, resample) for e, resample in zip((base, other), resamples, strict=True))
    if before is None or after is None:
        return Moved(other.present)
    difference = (before - after).abs()
    masks = [None if e.refined is None else upsample(e.refined.float(), e.grid) >= 0.5 for e in (base, other)]
    return Moved(
        present=other.present,
        largest=float(difference.max()),
        mean=float(difference.mean()),
        mask=None if masks[0] is None or masks[1] is None else mask_iou(masks[0], masks[1]),
        points=farthest(base.points, other.points),
        box=None if base.box is None or other.box is None else box_iou(base.box, other.box),
    )


def _response(e: Evidence, resample: str) -> Float[Tensor, "height width"] | None:
    values = e.relevance
    return None if values is None else upsample(values, e.grid, resample)


def mask_iou(one: Tensor, other: Tensor) -> float:
    """The IoU of two masks of equal size; 1 where both are empty.

    >>> import torch
    >>> mask_iou(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    0.5
    """
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def box_iou(one: Box, other: Box) -> float:
    """The IoU of two boxes of pixels, both corners inside the box.

    >>> box_iou((0, 0, 1, 1), (1, 0, 2, 1))
    0.3333333333333333
    """
    across = min(one[2], other[2]) - max(one[0], other[0]) + 1
    down = min(one[3], other[3]) - max(one[1], other[1]) + 1
    shared = max(across, 0) * max(down, 0)
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (one, other)]
    return shared / (sum(areas) - shared)


def farthest(one: Sequence[Point], other: Sequence[Point]) -> float | None:
    """The largest distance of a point of either set to the nearest one of the other; None where a set is empty.

    >>> farthest([(0, 0)], [(3, 4), (0, 0)])
    5.0
    """
    if not one or not other:
        return None
    return max(min(math.dist(a, b) for b in target) for source, target in ((one, other), (other, one)) for a in source)
