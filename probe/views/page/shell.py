"""The file around a page, and what every page is made of: the style and the script of `parts`, colours, images."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from probe.errors import OutputError
from probe.notebook import Html
from probe.views.colours import colour_map

COLOURS = "cividis"
"""matplotlib's colour map of the maps: the colour-blind see the same order of colours."""

LONGEST_SIDE = 1024
"""Of an image in a page, in pixels."""


def standalone(title: str, *, style: str, script: str, data: str, shown: str, without: Html) -> bytes:
    """One HTML file that needs no server and no network.

    Args:
        title: as text.
        style, script: what the page has beside `parts.css` and `parts.js`; the script exports `mount(element, data, {address})`.
        data: see `probe.views.page.packing.pack`.
        shown: what the page needs JavaScript for, to end the sentence "This page needs JavaScript to show ...".
        without: what a browser without JavaScript shows.
    """
    return (
        Template(resource("page.html"))
        .substitute(
            title=escape(title), style=page_style(style), script=page_script(script), data=data, shown=escape(shown), without=without
        )
        .encode()
    )


def page_style(own: str) -> str:
    """The style sheet of a page, with what all pages have."""
    return f"{resource('parts.css')}\n{own}"


def page_script(own: str) -> str:
    """The ES module of a page, with what all pages have."""
    return f"{resource('parts.js')}\n{own}"


def resource(name: str, package: str = "probe.views.page") -> str:
    """The text of one of the files of a package."""
    return (files(package) / name).read_text(encoding="utf-8")


def check_new(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file, before the work.

    Raises:
        OutputError: it exists, and is not to be replaced.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{str(path)!r} exists. Pass overwrite=True (--overwrite in a shell) to replace it, or name another file.")


def colours() -> UInt8[np.ndarray, "256 3"]:
    """The colours of maps, from the lowest value to the highest.

    Raises:
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.
    """
    return (colour_map(COLOURS)(np.linspace(0, 1, 256))[:, :3] * 255 + 0.5).astype(np.uint8)


def small_size(image: Image.Image) -> tuple[int, int]:
    """The (width, height) that an image has in a page."""
    factor = min(1.0, LONGEST_SIDE / max(image.size))
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def jpeg(image: Image.Image) -> bytes:
    """An image for the page, at most `LONGEST_SIDE` pixels long."""
    file = io.BytesIO()
    image.resize(small_size(image), Image.Resampling.BICUBIC, reducing_gap=2.0).save(file, "JPEG", quality=90)
    return file.getvalue()


def figure(image: Image.Image, caption: str) -> Html:
    """An image and what it shows."""
    source, said = base64.b64encode(jpeg(image)).decode("ascii"), escape(caption)
    return Html(f'<figure><img alt="{said}" src="data:image/jpeg;base64,{source}"><figcaption>{said}</figcaption></figure>')
