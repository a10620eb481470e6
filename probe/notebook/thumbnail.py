"""A map of cells as a small image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

DARK, MIDDLE, BRIGHT = "#440154", "#21918c", "#fde725"
"""The first, the middle and the last colour of viridis."""
NO_VALUE = 128
"""The grey of cells without a finite value."""


def thumbnail(values: Float[Tensor, "row col"]) -> Image.Image:
    """One pixel a cell, coloured from the smallest finite value to the largest. Other cells are grey.

    >>> thumbnail(torch.tensor([[0.0, 1.0]])).getpixel((1, 0))
    (253, 231, 37)
    """
    cells = values.detach().float().cpu().numpy()
    finite = np.isfinite(cells)
    low, high = (cells[finite].min(), cells[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = np.where(finite, cells - low, 0) / max(high - low, 1e-12)
    image = ImageOps.colorize(Image.fromarray((scaled * 255).round().astype(np.uint8)), DARK, BRIGHT, MIDDLE)
    grey = Image.new("RGB", image.size, (NO_VALUE,) * 3)
    return Image.composite(image, grey, Image.fromarray((finite * 255).astype(np.uint8)))


def cell_map(data: Tensor, dims: tuple[str, ...], axes: tuple[str, str]) -> Float[Tensor, "row col"]:
    """One value a cell: the norm along `feature`, the mean along every other axis, in float32.

    >>> cell_map(torch.tensor([[[[3.0, 4.0]]]]), ("batch", "row", "col", "feature"), ("row", "col"))
    tensor([[5.]])
    """
    values = data.detach().float()
    names = list(dims)
    if "feature" in names:
        values = torch.linalg.vector_norm(values, dim=names.index("feature"))
        names.remove("feature")
    others = tuple(i for i, name in enumerate(names) if name not in axes)
    return values.mean(others) if others else values
