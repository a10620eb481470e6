"""Figures as bytes of a PNG file."""

from __future__ import annotations

import io
import math

from matplotlib.figure import Figure

DOTS, LEAST_WIDTH = 120, 1000


def png_of(figure: Figure) -> bytes:
    """The figure at 120 dots an inch, or so many that it is 1,000 pixels wide, with the same bytes each time it is drawn.

    The name and version of what drew it are left out.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=max(DOTS, math.ceil(LEAST_WIDTH / figure.get_figwidth())), metadata={"Software": None})
    return drawn.getvalue()
