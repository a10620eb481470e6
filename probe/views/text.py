"""A text with a value for each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from probe.errors import InvalidRead
from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from probe.views.figures import axes_of, colour_scale, labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0
"""Of a figure, in inches."""
LETTERS = 80
"""In a line."""
ADVANCE = 0.602
"""The width of a letter of DejaVu Sans Mono, over its size."""


def tokens(text: TokenMap, values: Activation, *, ax: Axes | None = None, colours: str = "viridis") -> Figure:
    """A text whose tokens have the colours of their values.

    Args:
        text: the tokens of the same encoding.
        values: one value for each of some tokens, with one axis `token`, `query` or `key`; axes of length 1 are dropped.
        ax: matplotlib axes; None: a new figure.

    >>> encoding = model.encode(image, "Is there a cat?")
    >>> trace = model.run(encoding, probe.Attention(4, query=-1, key="question", heads="mean"))
    >>> figure = probe.views.tokens(encoding.tokens, trace.attention())
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['Is', 'there', 'a', 'cat', '?']

    Raises:
        InvalidRead: not one value a token.
        PackageNeeded: matplotlib is not installed.
    """
    dim = next((name for name in ("token", "key", "query") if values.shape.get(name, 1) > 1), "token")
    others = {name: 0 for name, size in values.shape.items() if size == 1 and name != dim}
    line = values.isel(**others)
    if line.dims != (dim,):
        raise InvalidRead(f"{values!r} has not one value a token. Select along its other axes or take their mean.")
    figure, axes = axes_of(ax, 1, 1, (WIDTH, 1.0))
    numbers = line.data.detach().float().cpu()
    scale = colour_scale(numbers, colours)
    pieces = [text.text(Span((position,))) or f"[{position}]" for position in labels_of(line, dim)]
    _draw_words(axes[0], pieces, scale.to_rgba(numbers.numpy()))
    figure.colorbar(scale, ax=axes[0], orientation="horizontal", fraction=0.15, aspect=40)
    return figure


def _draw_words(ax: Axes, pieces: Sequence[str], colours: NDArray[np.float64]) -> None:
    """Words in lines of at most `LETTERS` letters, each on its colour, black on light ones and white on dark ones."""
    ax.set_axis_off()
    inches = ax.get_window_extent().width / ax.figure.dpi
    size = min(10.0, inches * 72 / LETTERS / ADVANCE)
    row, column, places = 0, 0, []
    for piece in pieces:
        if column and column + len(piece) > LETTERS:
            row, column = row + 1, 0
        places.append((row, column))
        column += len(piece) + 1
    ax.set_xlim(0, inches * 72 / (size * ADVANCE))
    ax.set_ylim(row + 1, 0)
    for piece, colour, (line, start) in zip(pieces, colours, places, strict=True):
        ink = "black" if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 0.5 else "white"
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        ax.text(start, line + 0.5, piece, color=ink, bbox=box, family="DejaVu Sans Mono", fontsize=size, va="center", parse_math=False)
