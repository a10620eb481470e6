"""Figures of what was found and of the steps that led there, on one page.

Figures are plain `matplotlib.figure.Figure` objects with no state behind them: they can be made in any thread, without a display, and
are saved with `figure.savefig(path, dpi=200)`. A class keeps one colour everywhere, that of its label.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from fseg.drawing.label_map import checked_labels, overlay, palette, save_labels, shown_names
from fseg.errors import CannotDraw
from fseg.evidence import Evidence

__all__ = ["layers_figure", "overlay", "palette", "panel", "save_labels", "steps_figure"]

_TITLES = {
    "raw_distance": r"$\tilde{D}$  response",
    "distance": r"$D$  confident response",
    "response": r"$D_f$  response",
    "attention": r"$A_v$  attention",
    "prototype_mask": r"$M_v$  prototype mask",
    "refined": r"$M_r$  with prompts",
}
_COLOUR_MAPS = {"raw_distance": "magma", "distance": "magma", "response": "magma", "attention": "viridis"}
_STEPS = ("distance", "attention", "prototype_mask", "refined")
_TILE = 2.2  # inches, the longer side of one picture
_DRAWN = 800  # pixels, the longer side at which a picture is drawn in a figure
_LETTERS = 15.5  # of a caption, to the inch
_WHITE_EDGE = withStroke(linewidth=3.0, foreground="white")


class Segmented(Protocol):
    """What `panel` draws: a Result, or anything with these three."""

    @property
    def labels(self) -> Integer[np.ndarray, "height width"]: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def evidence(self) -> Mapping[str, Evidence]: ...


def steps_figure(
    image: Image.Image,
    evidence: Sequence[Evidence],
    classes: Sequence[str] | None = None,
    masks: Mapping[str, Tensor | ArrayLike | None] | None = None,
) -> Figure:
    """From the picture to each class's mask, as in the paper's Figures 3 and 4: one row for each class that is present.

    Args:
        image: RGB.
        evidence: one entry a class; absent classes are left out.
        classes: all that were asked for, in the order of the labels, whose colours they get. None: the order of the evidence.
        masks: bool (height, width) by class, for a last column; a class may have none.
    """
    classes = [one.name for one in evidence] if classes is None else classes
    present = [one for one in evidence if one.present]
    titles = ["image", *(_TITLES[step] for step in _STEPS)] + (["SAM's mask"] if masks is not None else [])
    figure, axes = _grid(max(1, len(present)), len(titles), image)
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    for row, one in zip(axes, present, strict=False):
        colour = _colour(classes, one.name)
        _picture(row[0], image, grey=False)
        _row_name(row[0], one.name, image, colour)
        for place, step in zip(row[1:], _STEPS, strict=False):
            _map(place, image, one, step, colour)
        _prompts(row[len(_STEPS)], one, colour)
        if masks is not None:
            _picture(row[-1], image)
            _mask(row[-1], image, masks.get(one.name), colour)
    if not present:
        _picture(axes[0, 0], image, grey=False)
        axes[0, 0].set_xlabel("no class was found", fontsize=9)
        for place in axes[0, 1:]:
            _empty(place)
    return figure


def layers_figure(image: Image.Image, per_layer: Mapping[int, Float[Tensor, "row col"]], name: str, *, shared: bool = True) -> Figure:
    """One class's map in each layer, as in the paper's Figure 5: the cosines of Eq. 3 before their mean over layers.

    Args:
        image: RGB.
        per_layer: (row, col) maps by layer.
        name: the class.
        shared: one scale of colours for all layers, with a bar; otherwise each layer from its own least to its own largest value.

    Raises:
        CannotDraw: there is no layer.
    """
    if not per_layer:
        raise CannotDraw(f"There is no layer of {name!r} to draw. Read some first, as in probe.Hidden(layers=range(1, 33), at=...).")
    maps = {layer: _array(values) for layer, values in sorted(per_layer.items())}
    columns = min(len(maps) + 1, 6)
    figure, axes = _grid(math.ceil((len(maps) + 1) / columns), columns, image)
    _picture(axes.flat[0], image, grey=False)
    axes.flat[0].set_title(_plain(textwrap.shorten(name, 28)), fontsize=9, fontweight="bold")
    least, largest = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
    for place, (layer, values) in zip(axes.flat[1:], maps.items(), strict=False):
        low, high = (least, largest) if shared else (values.min(), values.max())
        _picture(place, image)
        _heat(place, image, values, "magma", low, high)
        place.set_title(f"layer {layer}", fontsize=9)
    for place in axes.flat[len(maps) + 1 :]:
        _empty(place)
    if shared:
        bar = figure.colorbar(ScalarMappable(Normalize(least, largest), "magma"), ax=axes, fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("cosine similarity to the class token", fontsize=8)
    return figure


def panel(image: Image.Image, result: Segmented, truth: Tensor | ArrayLike | None = None) -> Figure:
    """A result on one page: picture, truth where there is one, prediction; then a row for each class found, under its answer.

    Args:
        image: RGB.
        result: with labels (height, width), classes, and evidence by class.
        truth: labels (height, width) of the same classes; 255 is ignored.

    Raises:
        CannotDraw: labels of another size than the image, or beyond the classes.
    """
    labels = {} if truth is None else {"truth": checked_labels(truth, image, result.classes)}
    labels["prediction"] = checked_labels(result.labels, image, result.classes)
    found = [name for name in result.classes if name in result.evidence and result.evidence[name].present]
    width, height = _tile(image)
    captions = [_caption(result.evidence[name], round(3 * width * _LETTERS)) for name in found]
    shown = shown_names(np.stack(list(labels.values())), result.classes)
    abreast = max(1, min(5, int(3 * width * _LETTERS / (max(map(len, shown.values()), default=0) + 8))))
    heights = [height + 0.25, 0.1 + 0.2 * math.ceil(len(shown) / abreast)]
    for caption in captions:
        heights += [0.15 + 0.16 * len(caption), height + 0.25]
    figure = Figure(figsize=(3 * width + 0.6, sum(heights)), layout="constrained")
    rows = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    pictures = {"image": image, **{title: overlay(image, values, result.classes, legend=False) for title, values in labels.items()}}
    for column, (title, picture) in enumerate(pictures.items()):
        place = _bare(figure.add_subplot(rows[0, column]))
        _picture(place, picture, grey=False)
        place.set_title(title, fontsize=9)
    _names(_empty(figure.add_subplot(rows[1, :])), shown, abreast)
    for row, (name, caption) in enumerate(zip(found, captions, strict=True), start=1):
        _lines(_empty(figure.add_subplot(rows[2 * row, :])), caption)
        places = [_bare(figure.add_subplot(rows[2 * row + 1, column])) for column in range(3)]
        _class_row(places, image, result.evidence[name], _colour(result.classes, name))
    return figure


def _class_row(places: Sequence[Axes], image: Image.Image, evidence: Evidence, colour: NDArray[Any]) -> None:
    first = "raw_distance" if evidence.raw_distance is not None else "response"  # a fusion of one's own may leave no more than its response
    for place, step in zip(places, (first, "attention", "refined"), strict=True):
        _map(place, image, evidence, step, colour)
        place.set_title(_TITLES[step], fontsize=9)
    _prompts(places[-1], evidence, colour)
    _row_name(places[0], evidence.name, image, colour)


def _row_name(place: Axes, name: str, image: Image.Image, colour: NDArray[Any]) -> None:
    """The class beside its row, from below upwards, in lines that are no longer than the picture is high."""
    lines = textwrap.fill(name, max(8, int(_tile(image)[1] * 10)))
    place.set_ylabel(_plain(lines), color=colour, fontsize=10, fontweight="bold")


def _names(place: Axes, shown: Mapping[int, str], abreast: int) -> None:
    """The colours of the labels, in a row of their own."""
    handles = [Patch(facecolor=palette()[label] / 255, label=_plain(name)) for label, name in shown.items()]
    legend = place.legend(handles=handles, loc="center", ncols=abreast, frameon=False, fontsize=8, handlelength=1.0, borderpad=0.0)
    legend.set_in_layout(False)


def _lines(place: Axes, lines: Sequence[str]) -> None:
    text = place.text(0.0, 0.0, _plain("\n".join(lines)), fontsize=8.5, color="0.2", verticalalignment="bottom", linespacing=1.3)
    text.set_in_layout(False)


def _caption(evidence: Evidence, letters: int) -> list[str]:
    """What the model said, and in what doubt, in lines of so many letters."""
    said = " ".join(evidence.answer.split()) or "no answer"
    facts = [f"asked as {evidence.asked_as!r}"] if evidence.asked_as != evidence.name else []
    facts += [] if evidence.margin is None else [f"margin {evidence.margin:.1f}"]
    facts += [] if evidence.score is None else [f"SAM's own estimate of its IoU {evidence.score:.2f}"]
    facts += evidence.flags
    return [*textwrap.wrap(f"“{said}”", letters, max_lines=4, placeholder=" …”"), *textwrap.wrap("; ".join(facts), letters)]


def _tile(image: Image.Image) -> tuple[float, float]:
    """(width, height) in inches of one picture; long pictures keep enough of their short side for a title."""
    scale = _TILE / max(image.size)
    return max(image.width * scale, 1.6), max(image.height * scale, 0.9)


def _grid(rows: int, columns: int, image: Image.Image) -> tuple[Figure, NDArray[Any]]:
    width, height = _tile(image)
    figure = Figure(figsize=(columns * width + 0.6, rows * (height + 0.1) + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        _bare(place)
    return figure, axes


def _bare(place: Axes) -> Axes:
    place.set_xticks([])
    place.set_yticks([])
    place.spines[:].set(color="0.85", linewidth=0.5)
    return place


def _empty(place: Axes) -> Axes:
    place.set_axis_off()
    return place


def _picture(place: Axes, image: Image.Image, grey: bool = True) -> None:
    """The image, in grey where a map is to lie on it: the map's colours then mean only what the map says."""
    drawn = image.convert("L" if grey else "RGB")
    drawn.thumbnail((_DRAWN, _DRAWN))
    place.imshow(np.asarray(drawn), cmap="gray", vmin=0, vmax=255, extent=_extent(image))


def _map(place: Axes, image: Image.Image, evidence: Evidence, step: str, colour: NDArray[Any]) -> None:
    _picture(place, image)
    values = getattr(evidence, step)
    if values is None:
        place.set_xlabel("not made", fontsize=8, color="0.5")
    elif step in _COLOUR_MAPS:
        _heat(place, image, _array(values), _COLOUR_MAPS[step], None, None)
    else:
        _mask(place, image, values, colour)


def _heat(place: Axes, image: Image.Image, values: NDArray[Any], colours: str, low: float | None, high: float | None) -> None:
    place.imshow(values, cmap=colours, vmin=low, vmax=high, alpha=0.75, interpolation="nearest", extent=_extent(image))


def _mask(place: Axes, image: Image.Image, mask: Any, colour: NDArray[Any]) -> None:
    if mask is not None:
        inside = _array(mask).astype(bool)[..., None]
        shade = np.where(inside, np.append(colour, 0.75), np.array([1.0, 1.0, 1.0, 0.6]))
        place.imshow(shade, interpolation="nearest", extent=_extent(image))


def _prompts(place: Axes, evidence: Evidence, colour: NDArray[Any]) -> None:
    """Box and points, over all else: a box of pixels ends half a pixel beyond the centre of its last one."""
    if evidence.box is not None:
        x0, y0, x1, y1 = evidence.box
        frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, edgecolor=colour, linewidth=1.6)
        frame.set_path_effects([_WHITE_EDGE])
        frame.set_clip_on(False)
        place.add_patch(frame)
    for x, y in evidence.points:
        place.plot(x, y, "o", markersize=6, markerfacecolor=colour, markeredgecolor="white", markeredgewidth=1.5, clip_on=False)


def _extent(image: Image.Image) -> tuple[float, float, float, float]:
    """The whole picture in pixels of the original, whatever the size of the array that is drawn there."""
    return -0.5, image.width - 0.5, image.height - 0.5, -0.5


def _colour(classes: Sequence[str], name: str) -> NDArray[Any]:
    return palette()[(list(classes).index(name) + 1) % 255] / 255.0


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float32)


def _plain(text: str) -> str:
    """Text that matplotlib is not to read as a formula."""
    return text.replace("$", r"\$")
