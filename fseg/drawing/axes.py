"""What figures draw on one axes: an image, a map, a mask, prompts, a legend, text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from fseg.drawing.palette import class_palette
from fseg.evidence import Evidence, MapName
from fseg.labels.values import IGNORED
from probe.tokens.layout import Grid

Colour = NDArray[np.float64]
"""RGB, 0 to 1."""

_COLOUR_MAPS: dict[MapName, str] = {"raw_distance": "magma", "distance": "magma", "response": "magma", "attention": "viridis"}
_DRAWN = 800  # the longer side of the array that is drawn for an image, in pixels
_WHITE_EDGE = withStroke(linewidth=3.0, foreground="white")


def draw_legend(ax: Axes, shown: Mapping[int, str], classes: Sequence[str], columns: int) -> None:
    """Draw the legend of the labels that are shown, of all classes, in a row of its own."""
    colours = class_palette(classes) / 255
    handles = [Patch(facecolor=colours[label], label=plain_text(name)) for label, name in shown.items()]
    legend = ax.legend(handles=handles, loc="center", ncols=columns, frameon=False, fontsize=8, handlelength=1.0, borderpad=0.0)
    legend.set_in_layout(False)


def draw_lines(ax: Axes, lines: Sequence[str]) -> None:
    """Draw lines of text above the lower edge."""
    text = ax.text(0.0, 0.0, plain_text("\n".join(lines)), fontsize=8.5, color="0.2", verticalalignment="bottom", linespacing=1.3)
    text.set_in_layout(False)


def without_ticks(ax: Axes) -> Axes:
    """The axes, without ticks and with a thin frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set(color="0.85", linewidth=0.5)
    return ax


def without_axis(ax: Axes) -> Axes:
    """The axes, empty."""
    ax.set_axis_off()
    return ax


def draw_image(ax: Axes, image: Image.Image, grey: bool = True) -> None:
    """Draw the image, in grey below a map, so that all colours are the map's."""
    drawn = image.convert("L" if grey else "RGB")
    drawn.thumbnail((_DRAWN, _DRAWN))
    ax.imshow(np.asarray(drawn), cmap="gray", vmin=0, vmax=255, extent=_extent(image))


def draw_map(ax: Axes, image: Image.Image, evidence: Evidence, step: MapName, colour: Colour) -> None:
    """Draw one of the class's maps over the image, masks in the class's colour."""
    draw_image(ax, image)
    values = getattr(evidence, step)
    if values is None:
        ax.set_xlabel("not computed", fontsize=8, color="0.5")
    elif step in _COLOUR_MAPS:
        draw_heat(ax, image, on_pixels(values, evidence.grid), _COLOUR_MAPS[step], None, None)
    else:
        draw_mask(ax, image, on_pixels(values, evidence.grid), colour)


def draw_heat(ax: Axes, image: Image.Image, values: NDArray[np.float32], colours: str, low: float | None, high: float | None) -> None:
    """Draw a map of the image's pixels, NaN where there is nothing to draw, with a matplotlib colour map from `low` to `high`.

    None: the map's own extremes.
    """
    ax.imshow(values, cmap=colours, vmin=low, vmax=high, alpha=0.75, interpolation="nearest", extent=_extent(image))


def draw_mask(ax: Axes, image: Image.Image, mask: Tensor | ArrayLike | None, colour: Colour) -> None:
    """Draw a mask of the image's pixels, in a colour inside and in white outside and where it is NaN; nothing for None."""
    if mask is not None:
        inside = (np.nan_to_num(to_array(mask)) > 0)[..., None]
        shade = np.where(inside, np.append(colour, 0.75), np.array([1.0, 1.0, 1.0, 0.6]))
        ax.imshow(shade, interpolation="nearest", extent=_extent(image))


def draw_prompts(ax: Axes, evidence: Evidence, colour: Colour) -> None:
    """Draw box and points on top, negative points as crosses: a box of pixels ends half a pixel beyond the centre of its last pixel."""
    if evidence.box is not None:
        x0, y0, x1, y1 = evidence.box
        frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, edgecolor=colour, linewidth=1.6)
        frame.set_path_effects([_WHITE_EDGE])
        frame.set_clip_on(False)
        ax.add_patch(frame)
    for x, y in evidence.points:
        ax.plot(x, y, "o", markersize=6, markerfacecolor=colour, markeredgecolor="white", markeredgewidth=1.5, clip_on=False)
    for x, y in evidence.negatives:
        ax.plot(x, y, "X", markersize=7, markerfacecolor=colour, markeredgecolor="white", markeredgewidth=1.0, clip_on=False)


def on_pixels(values: Tensor | ArrayLike, grid: Grid) -> NDArray[np.float32]:
    """A map of a grid's cells on the image's pixels, of which long sides are thinned: each pixel has its cell's value, NaN where none covers it."""
    down, across = (axis[_drawn_pixels(len(axis))] for axis in grid.pixel_coordinates())
    cells = to_array(values)
    rows, cols = (
        np.clip(np.nan_to_num(np.rint(axis)), 0, count - 1).astype(int)
        for axis, count in zip((down, across), (grid.rows, grid.cols), strict=True)
    )
    return np.where(np.isnan(down)[:, None] | np.isnan(across), np.float32(np.nan), cells[np.ix_(rows, cols)])


def _drawn_pixels(pixels: int) -> NDArray[np.intp]:
    """At most as many pixels of a side as are drawn, evenly spread."""
    drawn = min(pixels, _DRAWN)
    return ((np.arange(drawn) + 0.5) * pixels / drawn).astype(np.intp)


def _extent(image: Image.Image) -> tuple[float, float, float, float]:
    """The whole image in pixels of the original, whatever the size of the drawn array."""
    return -0.5, image.width - 0.5, image.height - 0.5, -0.5


def class_colour(classes: Sequence[str], name: str) -> Colour:
    """RGB of a class, as in `class_palette`."""
    return class_palette(classes)[(list(classes).index(name) + 1) % IGNORED] / 255.0


def to_array(values: Tensor | ArrayLike) -> NDArray[np.float32]:
    """The values as float32 on the CPU."""
    return values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float32)


def plain_text(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
