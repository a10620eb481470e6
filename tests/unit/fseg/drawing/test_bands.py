"""The figure of a calibration: the scores where they belong, and nothing cut off."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from fseg.calibrate.rows import bands
from fseg.drawing.bands import bands_figure
from fseg.errors import CannotDraw
from tests.unit.fseg.drawing.test_figures import drawn, inside

SCORES = {(0, 0): 0.4, (0, 1): 0.6, (0, 2): 0.55, (1, 1): 0.5, (1, 2): 0.65, (2, 2): 0.3}


def test_the_curve_is_of_single_layers_and_the_chosen_band_is_at_its_height() -> None:
    curve = bands_figure(SCORES, (1, 2), "masks").axes[0]
    layers, chosen = curve.lines
    assert layers.get_ydata() == pytest.approx([40, 50, 30])
    assert list(chosen.get_xdata()) == [0.5, 2.5]
    assert chosen.get_ydata() == pytest.approx([65, 65])
    assert chosen.get_label() == "chosen: layers 1 to 2 (65.0 %)"


def test_the_map_has_the_first_layer_upwards_and_the_last_to_the_right() -> None:
    shown = bands_figure(SCORES, (1, 2), "masks").axes[1]
    (values,) = (image.get_array() for image in shown.images)
    assert values is not None
    assert values[1, 2] == pytest.approx(65)
    assert np.ma.getmaskarray(values)[2, 0]  # no band goes from 2 to 0
    (frame,) = (patch for patch in shown.patches if isinstance(patch, Rectangle))
    assert frame.get_xy() == (1.5, 0.5)


@pytest.mark.parametrize("layers", [1, 9, 81])
def test_no_text_is_cut_off(layers: int) -> None:
    scores = {band: 0.5 + 0.001 * band[0] for band in bands(layers)}
    figure = bands_figure(scores, (0, layers - 1), "Refined masks M_r against the truth, before SAM: 1000 images of context60")
    figure.savefig(io.BytesIO(), format="png")
    assert [text.get_text() for text in drawn(figure) if not inside(figure, text)] == []


@pytest.mark.parametrize("scores", [{}, {(0, 1): 0.5, (1, 1): 0.5}])
def test_a_figure_needs_each_layer_alone(scores: dict[tuple[int, int], float]) -> None:
    with pytest.raises(CannotDraw, match="There is no score of the layers 0 to "):
        bands_figure(scores, (0, 1), "masks")
