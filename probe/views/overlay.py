"""Maps drawn over the picture that they belong to."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from probe.errors import GridUnknown, PackageNeeded
from probe.tracing.activation import Activation


def overlay(image: Image.Image, heat: Activation, *, colours: str = "magma", opacity: float = 0.6) -> Image.Image:
    """A heat map over its picture, from its smallest value to its largest.

    Args:
        image: the picture that was encoded.
        heat: one map, dims (row, col) or (height, width); leading axes of length 1 are dropped.
        colours: a matplotlib colour map.
        opacity: of the colours, 0 to 1. Where the model did not look, the picture stays grey.

    Raises:
        GridUnknown: not one single map, or a map of another picture.
        PackageNeeded: matplotlib, whose colours are used, is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise PackageNeeded(
            "overlay() takes its colours from matplotlib, which is not installed: pip install matplotlib. heat.numpy() has the numbers."
        ) from error
    pixels = heat.to_pixels() if heat.dims[-2:] == ("row", "col") else heat
    values = pixels.data.float().squeeze().cpu()
    if pixels.dims[-2:] != ("height", "width") or values.shape != (image.height, image.width):
        raise GridUnknown(
            f"{heat!r} is not one map of this picture of {image.height} x {image.width} pixels. "
            "Select one layer and head, take the mean of what is left, and fold it: .mean('head').grid()."
        )
    seen = ~torch.isnan(values)
    low, high = values[seen].min(), values[seen].max()
    scaled = torch.where(seen, (values - low) / (high - low).clamp(min=1e-12), 0.0).numpy()
    painted = np.asarray(matplotlib.colormaps[colours](scaled))[..., :3] * 255
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float64)
    strength = opacity * seen.numpy()[..., None]
    return Image.fromarray((grey * (1 - strength) + painted * strength + 0.5).astype(np.uint8))
