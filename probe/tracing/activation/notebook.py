"""What an activation shows in a notebook: its axes, and a small map where it lies on an image."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from probe.notebook import Html, image_of, section, table, thumbnail
from probe.notebook.thumbnail import cell_map
from probe.tokens.layout import ImageLayout
from probe.tokens.video import VideoLayout
from probe.tracing.activation.folding import fold

WIDTH = 168
"""Of a map, in pixels."""


def shown(
    name: str,
    data: Tensor,
    dims: tuple[str, ...],
    coords: Mapping[str, tuple[int, ...]],
    layout: ImageLayout | VideoLayout | None,
) -> Html:
    """The axes with their lengths and labels, and the map of all that was read, folded if it is not yet.

    One value a cell: the norm along `feature`, the mean along every other axis.
    """
    rows = [(dim, str(size), _listed(coords.get(dim, ()))) for dim, size in zip(dims, data.shape, strict=True)]
    title = f"{name}, {str(data.dtype).removeprefix('torch.')}, {data.device}"
    found = _map(data, dims, layout)
    pictures = [] if found is None else [image_of(thumbnail(found), WIDTH, smooth=False)]
    return section(title, table(rows, ("axis", "length", "labels")), *pictures)


def _map(data: Tensor, dims: tuple[str, ...], layout: ImageLayout | VideoLayout | None) -> Tensor | None:
    dim = next((name for name in ("key", "token") if name in dims), None)
    if layout is not None and dim is not None and data.numel():
        view = layout.grids[0].name if isinstance(layout, ImageLayout) else None
        data, dims, _, _ = fold(data, dims, dim, layout, view)
    axes = next((pair for pair in (("row", "col"), ("height", "width")) if set(pair) <= set(dims)), None)
    return None if axes is None or not data.numel() else cell_map(data, dims, axes)


def _listed(labels: tuple[int, ...]) -> str:
    """The labels of an axis, the middle ones of many left out."""
    few = labels if len(labels) <= 8 else (*labels[:4], "...", labels[-1])
    return ", ".join(map(str, few))
