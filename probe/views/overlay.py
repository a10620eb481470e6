"""Heat maps drawn over their image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from probe.tracing.activation import Activation
from probe.views.colours import colour_map
from probe.views.maps import maps_on_pixels


def overlay(image: Image.Image, heat: Activation, *, colours: str = "magma", opacity: float = 0.6) -> Image.Image:
    """A heat map over its image, coloured from its smallest value to its largest.

    Args:
        image: the image that was encoded.
        heat: one map, dims (row, col) or (height, width); leading axes of length 1 are dropped.
        colours: a matplotlib colour map.
        opacity: of the colours, 0 to 1. Pixels that no cell covers stay grey.

    >>> from probe.views import overlay
    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Attention(layers=[4], query=-1, key="image", heads="mean"))
    >>> overlay(image, trace.attention(layer=4).grid()).size == image.size
    True

    Raises:
        GridUnknown: not one single map, or a map of another image.
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.
    """
    coloured_by = colour_map(colours)
    values = maps_on_pixels(image, heat)
    covered = ~torch.isnan(values)
    low, high = values[covered].min(), values[covered].max()
    scaled = torch.where(covered, (values - low) / (high - low).clamp(min=1e-12), 0.0).numpy()
    coloured = coloured_by(scaled)[..., :3] * 255
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float64)
    strength = opacity * covered.numpy()[..., None]
    return Image.fromarray((grey * (1 - strength) + coloured * strength + 0.5).astype(np.uint8))
