"""The label maps of several recipes on the same images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer
from matplotlib.figure import Figure
from PIL import Image

from fseg.drawing.axes import draw_image, draw_legend, without_axis, without_ticks
from fseg.drawing.fonts import fonts_for
from fseg.drawing.label_map import overlay, shown_names

_WIDTH = 2.2
"""Inches of one picture."""


@dataclass(frozen=True)
class ComparedImage:
    """An image with label maps.

    Attributes:
        image: RGB.
        labels: by title, each (height, width) of the image: 0 background, i + 1 the i-th class, 255 ignored.
    """

    image: Image.Image
    labels: Mapping[str, Integer[np.ndarray, "height width"]]


def comparison_figure(images: Sequence[ComparedImage], classes: Sequence[str]) -> Figure:
    """A row for each image: the image, then its label maps under their titles; a legend of all classes below.

    Raises:
        CannotDraw: labels of another size than their image, or beyond the classes.

    >>> scene = fseg.glyphs.scene(1)
    >>> figure = comparison_figure([ComparedImage(scene.image, {"truth": scene.labels})], fseg.glyphs.CLASSES)
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['image', 'truth']
    """
    with fonts_for(classes):
        return _comparison_figure(images, classes)


def _comparison_figure(images: Sequence[ComparedImage], classes: Sequence[str]) -> Figure:
    columns = 1 + max(len(one.labels) for one in images)
    values = np.concatenate([np.unique(labels) for one in images for labels in one.labels.values()])
    names = shown_names(values, classes)
    across = max(1, min(6, int(columns * _WIDTH * 7 / (max(map(len, names.values()), default=0) + 8))))
    heights = [max(0.9, _WIDTH * one.image.height / one.image.width) + 0.35 for one in images]
    heights.append(0.1 + 0.2 * -(-len(names) // across))
    figure = Figure(figsize=(columns * _WIDTH + 0.3, sum(heights)), layout="constrained")
    rows = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for row, one in enumerate(images):
        drawn = {"image": one.image, **{title: overlay(one.image, labels, classes, legend=False) for title, labels in one.labels.items()}}
        for column, (title, picture) in enumerate(drawn.items()):
            ax = without_ticks(figure.add_subplot(rows[row, column]))
            draw_image(ax, picture, grey=False)
            ax.set_title(title, fontsize=8)
    draw_legend(without_axis(figure.add_subplot(rows[len(images), :])), names, classes, across)
    return figure
