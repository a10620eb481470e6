"""Maps side by side: their names, their one colour scale, and axes of one's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import probe
from probe.errors import GridUnknown, InvalidRead, PackageNeeded

IMAGE = Image.new("RGB", (4, 2), "white")
GRID = probe.Grid.whole(1, 2, (2, 4))
WORDS = {5: "Is", 6: " this", 7: " $x$"}


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[number] for number in ids)


TOKENS = probe.TokenMap((5, 6, 7), (), (), {}, decode=decode)


def maps(*shape: int, dims: tuple[str, ...], **coords: tuple[int, ...]) -> probe.Activation:
    """0, 1, 2... on a grid of one row and two columns, behind other axes."""
    values = torch.arange(float(np.prod(shape) * 2)).reshape(*shape, 1, 2)
    return probe.Activation(values, (*dims, "row", "col"), coords, view=GRID)


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_layers_have_their_numbers_and_one_scale() -> None:
    figure = probe.views.layers(IMAGE, maps(1, 3, dims=("batch", "layer"), layer=(2, 5, 7)))
    assert titles(figure) == ["layer 2", "layer 5", "layer 7"]
    heats = [ax.images[1] for ax in figure.axes[:3]]
    assert {heat.get_clim() for heat in heats} == {(0.0, 5.0)}
    assert [float(heat.get_array()[0, -1]) for heat in heats] == [1.0, 3.0, 5.0]  # the last pixel has the value of the last cell


def test_heads_of_several_layers_have_a_row_for_each_layer() -> None:
    figure = probe.views.heads(IMAGE, maps(3, 2, dims=("head", "layer"), layer=(4, 6), head=(0, 1, 9)))
    assert titles(figure)[2:4] == ["layer 4, head 9", "layer 6, head 0"]
    assert float(figure.axes[3].images[1].get_array()[0, 0]) == 2.0  # head 0 of layer 6, whichever axis comes first
    places = [ax.get_subplotspec().rowspan.start for ax in figure.axes[:6]]
    assert places == [0, 0, 0, 1, 1, 1]
    assert titles(probe.views.heads(IMAGE, maps(1, 2, dims=("layer", "head")))) == ["head 0", "head 1"]


def test_words_are_named_by_their_text() -> None:
    figure = probe.views.words(IMAGE, maps(2, dims=("query",), query=(0, 2)), TOKENS)
    assert titles(figure) == ["Is", "$x$"]
    figure.canvas.draw()  # a dollar is no formula


def test_figures_draw_on_axes_of_ones_own() -> None:
    own = Figure()
    axes = own.subplots(1, 2)
    assert probe.views.layers(IMAGE, maps(2, dims=("layer",)), ax=axes) is own
    assert [ax.get_title() for ax in axes] == ["layer 0", "layer 1"]
    with pytest.raises(InvalidRead, match=r"ax= has 2 matplotlib axes for 3 to draw"):
        probe.views.layers(IMAGE, maps(3, dims=("layer",)), ax=list(axes))


def test_values_that_are_not_finite_do_not_set_the_scale() -> None:
    heat = maps(2, dims=("layer",))
    heat.data[0, 0, 0] = float("nan")
    figure = probe.views.layers(IMAGE, heat)
    assert figure.axes[0].images[1].get_clim() == (1.0, 3.0)


def test_tokens_have_the_colours_of_their_values() -> None:
    values = probe.Activation(torch.tensor([[1.0, 3.0, 2.0]]), ("query", "key"), {"query": (2,), "key": (0, 1, 2)})
    figure = probe.views.tokens(TOKENS, values)
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["Is", "this", "$x$"]
    shown = [text.get_bbox_patch().get_facecolor() for text in texts]
    np.testing.assert_allclose(shown, matplotlib.colormaps["viridis"]([0.0, 1.0, 0.5]), atol=0.01)
    assert [text.get_color() for text in texts] == ["white", "black", "white"]


def test_a_long_text_is_wrapped() -> None:
    tokens = probe.TokenMap((6,) * 30, (), (), {}, decode=decode)
    figure = probe.views.tokens(tokens, probe.Activation(torch.arange(30.0), ("token",)))
    assert [text.get_position() for text in figure.axes[0].texts][15:17] == [(75, 0.5), (0, 1.5)]  # 16 x "this " fill 80 letters


@pytest.mark.parametrize(
    ("dims", "message"), [(("head",), "is not maps along layer of this image"), (("layer", "head"), "is not maps along layer")]
)
def test_other_axes_are_named(dims: tuple[str, ...], message: str) -> None:
    with pytest.raises(GridUnknown, match=message):
        probe.views.layers(IMAGE, maps(*(2 for _ in dims), dims=dims))


def test_maps_of_another_image_and_values_without_a_token_are_refused() -> None:
    with pytest.raises(GridUnknown, match="lies on an image of 2 x 4 pixels, this one has 5 x 5"):
        probe.views.layers(Image.new("RGB", (5, 5)), maps(2, dims=("layer",)))
    with pytest.raises(InvalidRead, match="not one value a token"):
        probe.views.tokens(TOKENS, probe.Activation(torch.ones(2, 3), ("layer", "token")))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(PackageNeeded, match="pip install matplotlib"):
        probe.views.layers(IMAGE, maps(2, dims=("layer",)))
