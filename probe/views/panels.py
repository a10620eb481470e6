"""Heat maps side by side on one colour scale: of layers, of heads, of words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from probe.views.figures import axes_of, colour_scale, labels_of
from probe.views.maps import maps_on_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6
"""Maps side by side in a figure of its own."""
OPACITY = 0.7
"""Of a map over its image, which is grey."""
TILE = 2.0
"""The longer side of a map in inches."""


def layers(image: Image.Image, maps: Activation, *, ax: Axes | Sequence[Axes] | None = None, colours: str = "viridis") -> Figure:
    """One heat map a layer over the image, all on one colour scale.

    Args:
        image: the image that was encoded.
        maps: dims (layer, row, col), or (layer, height, width); other axes of length 1 are dropped.
        ax: matplotlib axes, as many as there are maps; None: a new figure.
        colours: a matplotlib colour map.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Attention("all", query=-1, key="image", heads="mean"))
    >>> figure = probe.views.layers(image, trace.attention().grid())
    >>> [ax.get_title() for ax in figure.axes][:2]
    ['layer 0', 'layer 1']

    Raises:
        GridUnknown: other axes, or maps of another image.
        InvalidRead: not as many axes as maps.
        PackageNeeded: matplotlib is not installed.
    """
    return _panels(image, maps, ("layer",), [f"layer {number}" for number in labels_of(maps, "layer")], ax, colours, COLUMNS)


def heads(image: Image.Image, maps: Activation, *, ax: Axes | Sequence[Axes] | None = None, colours: str = "viridis") -> Figure:
    """One heat map a head over the image, all on one colour scale; of several layers a row each.

    Args:
        maps: dims (head, row, col) or (layer, head, row, col), of `Attention` or of one value for each head.
        image, ax, colours: as in `layers`.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Attention([3, 4], query=-1, key="image"))
    >>> figure = probe.views.heads(image, trace.attention().grid())
    >>> [ax.get_title() for ax in figure.axes][:3]
    ['layer 3, head 0', 'layer 3, head 1', 'layer 4, head 0']
    """
    numbers = labels_of(maps, "head")
    if maps.shape.get("layer", 1) == 1:
        return _panels(image, maps, ("head",), [f"head {number}" for number in numbers], ax, colours, COLUMNS)
    names = [f"layer {layer}, head {head}" for layer, head in product(labels_of(maps, "layer"), numbers)]
    return _panels(image, maps, ("layer", "head"), names, ax, colours, len(numbers))


def words(
    image: Image.Image, maps: Activation, tokens: TokenMap, *, ax: Axes | Sequence[Axes] | None = None, colours: str = "viridis"
) -> Figure:
    """One heat map a query token over the image, all on one colour scale, under the token's text.

    Args:
        maps: dims (query, row, col), of attention from the tokens of a word or an answer.
        tokens: of the same encoding.
        image, ax, colours: as in `layers`.

    >>> answer = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat.")
    >>> trace = model.run(answer, probe.Attention(4, query="answer", key="image", heads="mean"))
    >>> figure = probe.views.words(image, trace.attention().grid(), answer.tokens)
    >>> [ax.get_title() for ax in figure.axes][:2]
    ['yes', ',']
    """
    names = [tokens.text(Span((position,))) or f"token {position}" for position in labels_of(maps, "query")]
    return _panels(image, maps, ("query",), names, ax, colours, COLUMNS)


def _panels(
    image: Image.Image,
    maps: Activation,
    along: tuple[str, ...],
    names: Sequence[str],
    ax: Axes | Sequence[Axes] | None,
    colours: str,
    columns: int,
) -> Figure:
    """The maps along some axes, each under its name, and one colour bar."""
    values = maps_on_pixels(image, maps, along).flatten(0, len(along) - 1)
    columns = min(columns, len(names))
    inches = TILE / max(image.size)
    size = (columns * image.width * inches + 1.0, ceil(len(names) / columns) * (image.height * inches + 0.3))
    figure, axes = axes_of(ax, len(names), columns, size)
    scale = colour_scale(values, colours)
    low, high = scale.get_clim()
    grey = np.asarray(image.convert("L"))
    for one, name, heat in zip(axes, names, values, strict=True):
        one.imshow(grey, cmap="gray", vmin=0, vmax=255)
        one.imshow(heat.numpy(), cmap=colours, vmin=low, vmax=high, alpha=OPACITY, interpolation="nearest")
        one.set_title(name, fontsize=8, parse_math=False)
        one.set_axis_off()
    figure.colorbar(scale, ax=list(axes), shrink=0.8)
    return figure
