"""Figures of a result and of the steps that led to it, each on one page.

Figures are plain `matplotlib.figure.Figure` objects, independent of pyplot: they can be made in any thread, without a display, and are saved
with `figure.savefig(path, dpi=200)`. A class has the same colour in every figure, which its name gives.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from fseg.drawing.axes import (
    Colour,
    class_colour,
    draw_heat,
    draw_image,
    draw_legend,
    draw_lines,
    draw_map,
    draw_mask,
    draw_prompts,
    on_pixels,
    plain_text,
    to_array,
    without_axis,
    without_ticks,
)
from fseg.drawing.fonts import fonts_for
from fseg.drawing.label_map import checked_labels, overlay, save_labels, shown_names
from fseg.drawing.palette import class_palette, palette
from fseg.errors import CannotDraw
from fseg.evidence import Evidence, MapName
from probe.tokens.layout import Grid

__all__ = ["class_palette", "layers_figure", "overlay", "palette", "panel", "save_labels", "steps_figure"]

_TITLES: dict[MapName, str] = {
    "raw_distance": r"$\tilde{D}$  response",
    "distance": r"$D$  confident response",
    "response": r"$D_f$  response",
    "attention": r"$A_v$  attention",
    "prototype_mask": r"$M_v$  prototype mask",
    "refined": r"$M_r$  with prompts",
}
_SAM = "SAM's mask"
_STEPS: tuple[MapName, ...] = ("distance", "attention", "prototype_mask", "refined")
_TILE = 2.2  # the longer side of one image, in inches
_COLUMNS = 4  # of a panel
_LETTERS = 15.5  # letters of a caption per inch


class Segmented(Protocol):
    """What `panel` draws: a Result, or any object with these four attributes."""

    @property
    def labels(self) -> Integer[np.ndarray, "height width"]:
        """0 background, i + 1 = classes[i], 255 ignored."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names."""

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """One entry for each class."""

    @property
    def masks(self) -> Mapping[str, Bool[np.ndarray, "height width"]]:
        """SAM's mask of each class that has one, which may overlap others."""


def steps_figure(
    image: Image.Image,
    evidence: Sequence[Evidence],
    classes: Sequence[str] | None = None,
    masks: Mapping[str, Tensor | ArrayLike | None] | None = None,
) -> Figure:
    """The steps from the image to each class's mask, as in the paper's Figures 3 and 4: one row for each class that is present.

    Args:
        image: RGB.
        evidence: one entry for each class; absent classes are left out.
        classes: all class names, in the order of the labels, which gives their colours. None: the order of the evidence.
        masks: bool (height, width) by class, for a last column; a class may have none.

    >>> scene = fseg.glyphs.scene(1)
    >>> result = fseg.Segmenter()(scene.image, scene.classes)
    >>> type(steps_figure(scene.image, list(result.evidence.values()), masks=result.masks)).__name__
    'Figure'
    """
    with fonts_for(one.name for one in evidence):
        return _steps_figure(image, evidence, [one.name for one in evidence] if classes is None else classes, masks)


def _steps_figure(
    image: Image.Image, evidence: Sequence[Evidence], classes: Sequence[str], masks: Mapping[str, Tensor | ArrayLike | None] | None
) -> Figure:
    present = [one for one in evidence if one.present]
    titles = ["image", *(_TITLES[step] for step in _STEPS)] + ([_SAM] if masks is not None else [])
    figure, axes = _grid(max(1, len(present)), len(titles), image)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    for row, one in zip(axes, present, strict=False):
        colour = class_colour(classes, one.name)
        draw_image(row[0], image, grey=False)
        _row_name(row[0], one.name, image, colour)
        for ax, step in zip(row[1:], _STEPS, strict=False):
            draw_map(ax, image, one, step, colour)
        draw_prompts(row[len(_STEPS)], one, colour)
        if masks is not None:
            draw_image(row[-1], image)
            draw_mask(row[-1], image, masks.get(one.name), colour)
    if not present:
        draw_image(axes[0, 0], image, grey=False)
        axes[0, 0].set_xlabel("no class is present", fontsize=9)
        for ax in axes[0, 1:]:
            without_axis(ax)
    return figure


def layers_figure(
    image: Image.Image, per_layer: Mapping[int, Float[Tensor, "row col"]], name: str, grid: Grid | None = None, *, shared: bool = True
) -> Figure:
    """One class's map in each layer, as in the paper's Figure 5: the cosines of Eq. 3 before their mean over layers.

    Args:
        image: RGB.
        per_layer: (row, col) maps by layer.
        name: the class.
        grid: where the maps' cells lie; None: they divide the image evenly.
        shared: one colour scale for all layers, with a colour bar; otherwise each layer has a scale from its own minimum to its maximum.

    >>> image = fseg.glyphs.scene(1).image
    >>> type(layers_figure(image, fseg.Segmenter().layer_distances(image, "cat"), "cat")).__name__
    'Figure'

    Raises:
        CannotDraw: there is no layer.
    """
    if not per_layer:
        raise CannotDraw(f"There is no layer of {name!r} to draw. Read some first, as in probe.Hidden(layers=range(1, 33), at=...).")
    with fonts_for([name]):
        return _layers_figure(image, per_layer, name, grid, shared)


def _layers_figure(
    image: Image.Image, per_layer: Mapping[int, Float[Tensor, "row col"]], name: str, grid: Grid | None, shared: bool
) -> Figure:
    maps = {layer: to_array(values) for layer, values in sorted(per_layer.items())}
    columns = min(len(maps) + 1, 6)
    figure, axes = _grid(math.ceil((len(maps) + 1) / columns), columns, image)
    draw_image(axes.flat[0], image, grey=False)
    axes.flat[0].set_title(plain_text(textwrap.shorten(name, 28)), fontsize=9, fontweight="bold")
    least, largest = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
    for ax, (layer, values) in zip(axes.flat[1:], maps.items(), strict=False):
        low, high = (least, largest) if shared else (values.min(), values.max())
        draw_image(ax, image)
        cells = grid or Grid.whole(values.shape[0], values.shape[1], (image.height, image.width))
        draw_heat(ax, image, on_pixels(values, cells), "magma", low, high)
        ax.set_title(f"layer {layer}", fontsize=9)
    for ax in axes.flat[len(maps) + 1 :]:
        without_axis(ax)
    if shared:
        bar = figure.colorbar(ScalarMappable(Normalize(least, largest), "magma"), ax=axes, fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("cosine similarity to the class token", fontsize=8)
    return figure


def panel(image: Image.Image, result: Segmented, truth: Tensor | ArrayLike | None = None) -> Figure:
    """A result on one page: image, ground truth if given, prediction; then for each class that is present its answer, its maps and SAM's mask.

    Args:
        image: RGB.
        result: with labels (height, width), classes, and evidence and masks by class.
        truth: labels (height, width) of the same classes; 255 is ignored.

    >>> scene = fseg.glyphs.scene(1)
    >>> figure = panel(scene.image, fseg.Segmenter()(scene.image, scene.classes))
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['image', 'prediction']

    Raises:
        CannotDraw: labels of another size than the image, or beyond the classes.
    """
    with fonts_for([*result.classes, *(one.answer for one in result.evidence.values())]):
        return _panel(image, result, truth)


def _panel(image: Image.Image, result: Segmented, truth: Tensor | ArrayLike | None) -> Figure:
    labels = {} if truth is None else {"truth": checked_labels(truth, image, result.classes)}
    labels["prediction"] = checked_labels(result.labels, image, result.classes)
    present = [name for name in result.classes if name in result.evidence and result.evidence[name].present]
    width, height = _tile(image)
    captions = [_caption(result.evidence[name], round(_COLUMNS * width * _LETTERS)) for name in present]
    shown = shown_names(np.stack(list(labels.values())), result.classes)
    columns = max(1, min(5, int(_COLUMNS * width * _LETTERS / (max(map(len, shown.values()), default=0) + 8))))
    heights = [height + 0.25, 0.1 + 0.2 * math.ceil(len(shown) / columns)]
    for caption in captions:
        heights += [0.15 + 0.16 * len(caption), height + 0.25]
    figure = Figure(figsize=(_COLUMNS * width + 0.6, sum(heights)), layout="constrained")
    rows = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
    images = {"image": image, **{title: overlay(image, values, result.classes, legend=False) for title, values in labels.items()}}
    for column, (title, drawn) in enumerate(images.items()):
        ax = without_ticks(figure.add_subplot(rows[0, column]))
        draw_image(ax, drawn, grey=False)
        ax.set_title(title, fontsize=9)
    draw_legend(without_axis(figure.add_subplot(rows[1, :])), shown, result.classes, columns)
    for row, (name, caption) in enumerate(zip(present, captions, strict=True), start=1):
        draw_lines(without_axis(figure.add_subplot(rows[2 * row, :])), caption)
        axes = [without_ticks(figure.add_subplot(rows[2 * row + 1, column])) for column in range(_COLUMNS)]
        _class_row(axes, image, result.evidence[name], result.masks.get(name), class_colour(result.classes, name))
    return figure


def _class_row(axes: Sequence[Axes], image: Image.Image, evidence: Evidence, mask: ArrayLike | None, colour: Colour) -> None:
    first: MapName = "raw_distance" if evidence.raw_distance is not None else "response"  # a fusion may return its response alone
    steps: tuple[MapName, ...] = (first, "attention", "refined")
    for ax, step in zip(axes, steps, strict=False):
        draw_map(ax, image, evidence, step, colour)
        ax.set_title(_TITLES[step], fontsize=9)
    draw_prompts(axes[2], evidence, colour)
    draw_image(axes[3], image)
    draw_mask(axes[3], image, mask, colour)
    axes[3].set_title(_SAM, fontsize=9)
    _row_name(axes[0], evidence.name, image, colour)


def _row_name(ax: Axes, name: str, image: Image.Image, colour: Colour) -> None:
    """Write the class to the left of its row, upwards, in lines no longer than the image is high."""
    lines = textwrap.fill(name, max(8, int(_tile(image)[1] * 10)))
    ax.set_ylabel(plain_text(lines), color=colour, fontsize=10, fontweight="bold")


def _caption(evidence: Evidence, letters: int) -> list[str]:
    """The model's answer, its margin, score and flags, in lines of at most `letters` letters."""
    answer = " ".join(evidence.answer.split()) or "no answer"
    facts = [f"asked as {evidence.asked_as!r}"] if evidence.asked_as != evidence.name else []
    facts += [] if evidence.margin is None else [f"margin {evidence.margin:.1f}"]
    facts += [] if evidence.score is None else [f"SAM's own estimate of its IoU {evidence.score:.2f}"]
    facts += evidence.flags
    return [*textwrap.wrap(f"“{answer}”", letters, max_lines=4, placeholder=" …”"), *textwrap.wrap("; ".join(facts), letters)]


def _tile(image: Image.Image) -> tuple[float, float]:
    """(width, height) of one image in inches; the shorter side of a long image stays long enough for a title."""
    scale = _TILE / max(image.size)
    return max(image.width * scale, 1.6), max(image.height * scale, 0.9)


def _grid(rows: int, columns: int, image: Image.Image) -> tuple[Figure, NDArray[Any]]:
    width, height = _tile(image)
    figure = Figure(figsize=(columns * width + 0.6, rows * (height + 0.1) + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        without_ticks(ax)
    return figure, axes
