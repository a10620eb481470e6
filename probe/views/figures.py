"""Figures, their axes and their colour scale; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probe.errors import InvalidRead, PackageNeeded
from probe.tracing.activation import Activation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


def axes_of(ax: Axes | Sequence[Axes] | None, count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """The axes that are given, or those of a new figure.

    Args:
        ax: one, several in any nesting as `plt.subplots` gives them, or None.
        count: how many are needed.
        columns, size: of a new figure; (width, height) in inches.

    Raises:
        InvalidRead: another number of axes than needed.
        PackageNeeded: matplotlib is not installed.
    """
    try:
        from matplotlib.axes import Axes as MatplotlibAxes
        from matplotlib.figure import Figure as MatplotlibFigure
    except ModuleNotFoundError as error:
        raise PackageNeeded(
            "Figures need matplotlib, which is not installed: pip install matplotlib. maps.numpy() has the numbers."
        ) from error
    if ax is None:
        figure = MatplotlibFigure(figsize=size, layout="constrained")
        new = figure.subplots(-(-count // columns), columns, squeeze=False)
        for unused in new.flat[count:]:
            unused.set_axis_off()
        return figure, list(new.flat[:count])
    given = [each for each in np.ravel(np.asarray(ax, dtype=object)) if isinstance(each, MatplotlibAxes)]
    if len(given) != count:
        raise InvalidRead(f"ax= has {len(given)} matplotlib axes for {count} to draw. Give as many, or leave it out for a new figure.")
    owner = given[0].get_figure(root=True)
    assert owner is not None  # axes are made by a figure
    return owner, given


def colour_scale(values: Tensor, colours: str) -> ScalarMappable:
    """From the smallest to the largest finite value."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = values[torch.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
    return ScalarMappable(Normalize(low, high if high > low else low + 1e-12), colours)


def labels_of(values: Activation, dim: str) -> tuple[int, ...]:
    """The coordinates of an axis, numbers from 0 where it has none; none of an axis that is not there."""
    return tuple(values.coords.get(dim, range(values.shape.get(dim, 0))))
