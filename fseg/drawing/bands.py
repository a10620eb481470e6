"""The figure of a calibration: what each layer and each band of layers is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fseg.errors import CannotDraw

_CURVE, _CHOSEN = "#1f4e79", "#c44e52"
_MOST_MARKED = 40  # layers up to which each point has a marker


def bands_figure(scores: Mapping[tuple[int, int], float], chosen: tuple[int, int], title: str) -> Figure:
    """A curve over single layers with the chosen band, and a map of all bands.

    Args:
        scores: a share in 0..1 by band (first, last); every band of single layers from 0 on has to be there.
        chosen: the band that is marked.
        title: what the scores are.

    >>> figure = bands_figure({(0, 0): 0.4, (0, 1): 0.6, (1, 1): 0.5}, (0, 1), "masks")
    >>> figure.axes[0].get_xlabel()
    'layer (index of hidden_states)'

    Raises:
        CannotDraw: there is no score of the chosen band, or of a single layer.
    """
    last = max((band[1] for band in scores), default=-1)
    missing = [band for band in [chosen, *((layer, layer) for layer in range(last + 1))] if band not in scores]
    if missing:
        raise CannotDraw(
            f"There is no score of the layers {missing[0][0]} to {missing[0][1]} to draw. Score each layer alone, and the band."
        )
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    curve, bands = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _draw_curve(curve, [100 * scores[layer, layer] for layer in range(last + 1)], chosen, 100 * scores[chosen])
    _draw_bands(figure, bands, scores, chosen, last + 1)
    return figure


def _draw_curve(ax: Axes, values: list[float], chosen: tuple[int, int], score: float) -> None:
    marker = "o" if len(values) <= _MOST_MARKED else None
    ax.plot(range(len(values)), values, color=_CURVE, linewidth=2, marker=marker, markersize=5, label="one layer alone")
    ax.axvspan(chosen[0] - 0.5, chosen[1] + 0.5, color=_CHOSEN, alpha=0.15, linewidth=0)
    name = f"chosen: {_name(chosen)} ({score:.1f} %)"
    ax.plot([chosen[0] - 0.5, chosen[1] + 0.5], [score, score], color=_CHOSEN, linewidth=3, label=name)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=17))
    ax.set_xlabel("layer (index of hidden_states)", fontsize=11)
    ax.set_ylabel("mIoU of cells in percent", fontsize=11)
    ax.set_title("single layers", fontsize=11)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower center", frameon=True, framealpha=0.9, fontsize=10)


def _draw_bands(figure: Figure, ax: Axes, scores: Mapping[tuple[int, int], float], chosen: tuple[int, int], layers: int) -> None:
    values = np.full((layers, layers), math.nan)
    for (first, last), score in scores.items():
        values[first, last] = 100 * score
    shown = ax.imshow(values, cmap="viridis", origin="lower", interpolation="nearest", vmin=np.nanquantile(values, 0.05))
    ax.add_patch(Rectangle((chosen[1] - 0.5, chosen[0] - 0.5), 1, 1, fill=False, edgecolor=_CHOSEN, linewidth=2.5))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.set_xlabel("last layer", fontsize=11)
    ax.set_ylabel("first layer", fontsize=11)
    ax.set_title("bands (chosen: red frame)", fontsize=11)
    bar = figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.03, extend="min")
    bar.set_label("mIoU of cells in percent", fontsize=10)


def _name(band: tuple[int, int]) -> str:
    return f"layer {band[0]}" if band[0] == band[1] else f"layers {band[0]} to {band[1]}"
