"""Small pieces of HTML without a style sheet or a script. They take the colours of the notebook's theme."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

HUES = ("0, 114, 178", "230, 159, 0", "0, 158, 115", "204, 121, 167", "86, 180, 233", "213, 94, 0")
"""Red, green and blue of Okabe and Ito's colours, which the colour-blind can tell apart."""


class Html(str):
    """Markup. Any other text is escaped."""


def escaped(text: str) -> Html:
    """The text as it reads, whatever characters are in it.

    >>> escaped("a <b>"), escaped(Html("<b>a</b>"))
    ('a &lt;b&gt;', '<b>a</b>')
    """
    return text if isinstance(text, Html) else Html(html.escape(text))


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> Html:
    """A table, aligned to the left.

    >>> table([("layers", "8")])
    '<table><tr><td style="text-align: left">layers</td><td style="text-align: left">8</td></tr></table>'
    """
    return Html("<table>" + (_row(head, "th") if head else "") + "".join(_row(row, "td") for row in rows) + "</table>")


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f'<{tag} style="text-align: left">{escaped(cell)}</{tag}>' for cell in cells) + "</tr>"


def section(title: str, *parts: Html) -> Html:
    """A title and what follows it."""
    return Html(f"<div><div><code>{escaped(title)}</code></div>{''.join(parts)}</div>")


def swatch(colour: str, name: str) -> Html:
    """A name on its colour, a CSS one."""
    return Html(f'<span style="background: {colour}; padding: 0 0.3em; border-radius: 0.2em">{escaped(name)}</span>')


def coloured(pieces: Iterable[tuple[str, str]], names: Sequence[str]) -> Html:
    """A text of pieces, each on the colour of its name, and below it the names.

    Args:
        pieces: (text, name) in order; a name that is not among `names` has no colour.
        names: in the order of the colours, which repeat after six.
    """
    hues: Mapping[str, str] = {name: f"rgba({HUES[i % len(HUES)]}, 0.35)" for i, name in enumerate(names)}
    spans = [f'<span style="background: {hues[name]}">{escaped(text)}</span>' if name in hues else escaped(text) for text, name in pieces]
    legend = " ".join(swatch(colour, name) for name, colour in hues.items())
    return Html(f'<div style="white-space: pre-wrap">{"".join(spans)}</div><div>{legend}</div>')


def image_of(image: Image.Image, width: int, *, smooth: bool = True) -> Html:
    """An image inside the page, shown so many pixels wide. Of a large one only the pixels that are shown are kept.

    Args:
        smooth: False for a map of few cells, whose edges stay sharp.
    """
    kept = image.copy()
    kept.thumbnail((2 * width, 4 * width))  # twice the pixels for a screen that has them
    buffer = io.BytesIO()
    kept.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    rendering = "" if smooth else "; image-rendering: pixelated"
    return Html(f'<img alt="" src="data:image/png;base64,{data}" style="width: {width}px{rendering}">')


@dataclass(frozen=True, repr=False)
class Frame:
    """A whole HTML document that a notebook shows in a frame of its own.

    Attributes:
        document: with its styles and scripts.
        height: of the frame, in pixels.
    """

    document: str
    height: int

    def __repr__(self) -> str:
        return f"Frame({len(self.document) / 1e6:.2f} MB, which a notebook shows)"

    def _repr_html_(self) -> Html:
        style = f"width: 100%; height: {self.height}px; border: 0"
        return Html(f'<iframe srcdoc="{html.escape(self.document)}" style="{style}"></iframe>')
