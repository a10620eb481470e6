"""The colours of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from probe.errors import PackageNeeded

Floats = NDArray[np.floating]


def colour_map(name: str) -> Callable[[Floats], Floats]:
    """matplotlib's colour map of this name: values from 0 to 1 to (red, green, blue, alpha) from 0 to 1, a last axis more.

    Raises:
        PackageNeeded: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise PackageNeeded(
            "Colours are taken from matplotlib, which is not installed: pip install matplotlib. An activation's .numpy() has the numbers."
        ) from error
    return cast("Callable[[Floats], Floats]", matplotlib.colormaps[name])
