"""What objects show in a notebook, and that their text stays text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.inspection import Inspection
from probe.notebook import Html, coloured, image_of, table, thumbnail
from probe.notebook.thumbnail import cell_map

YELLOW, PURPLE = (253, 231, 37), (68, 1, 84)
WORDS = {5: "Is", 6: " this", 7: " a", 8: " <b>", 2: "</s>"}


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[number] for number in ids)


def picture(html: str) -> Image.Image:
    """The only image in it."""
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_text_is_escaped_and_markup_is_not() -> None:
    assert "&lt;script&gt;" in table([("<script>",)])
    assert "<i>a</i>" in table([(Html("<i>a</i>"),)])


def test_a_map_is_coloured_from_its_smallest_finite_value_to_its_largest() -> None:
    drawn = thumbnail(torch.tensor([[2.0, 4.0], [float("nan"), float("inf")]]))
    assert np.asarray(drawn).reshape(4, 3).tolist() == [list(PURPLE), list(YELLOW), [128] * 3, [128] * 3]
    assert thumbnail(torch.full((1, 2), float("nan"))).getpixel((0, 0)) == (128, 128, 128)
    assert thumbnail(torch.ones(1, 2)).getpixel((1, 0)) == PURPLE  # no range: nothing stands out


def test_a_map_has_the_norm_of_features_and_the_mean_of_the_rest() -> None:
    data = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]], [[[0.0, 1.0], [0.0, 2.0]]]], dtype=torch.bfloat16)
    assert cell_map(data, ("layer", "row", "col", "feature"), ("row", "col")).tolist() == [[3.0, 1.0]]


def test_a_large_image_is_kept_at_twice_what_is_shown() -> None:
    html = image_of(Image.new("RGB", (900, 300)), 50)
    assert picture(html).size == (100, 33)
    assert "width: 50px" in html


@pytest.mark.parametrize("folded", [False, True])
def test_an_activation_on_an_image_shows_its_map(folded: bool) -> None:
    layout = probe.ImageLayout((probe.Grid.whole(2, 2, (20, 20)),), 4)
    values = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    tokens = probe.Activation(values, ("batch", "token"), {"token": (4, 5, 6, 7)}, layout=layout)
    html = (tokens.grid() if folded else tokens)._repr_html_()
    assert picture(html).getpixel((1, 0)) == YELLOW
    assert ("4, 5, 6, 7" in html) == (not folded)


def test_an_activation_without_a_place_has_no_map() -> None:
    assert "<img" not in probe.Activation(torch.ones(3), ("token",))._repr_html_()
    many = probe.Activation(torch.ones(20), ("layer",), {"layer": tuple(range(20))})
    assert "0, 1, 2, 3, ..., 19" in many._repr_html_()


def test_a_token_is_on_the_colour_of_its_smallest_span() -> None:
    spans = {
        "prompt": probe.Span(range(7)),
        "image": probe.Span((1, 2)),
        "question": probe.Span((3, 4, 5, 6)),
        "thing": probe.Span((5, 6)),
    }
    html = probe.TokenMap((2, 9, 9, 5, 6, 7, 8), ((1, 2),), (None,), spans, frozenset({2, 9}), decode)._repr_html_()
    runs = re.findall(r'<span style="background: rgba\(([^)]+), 0.35\)">([^<]+)</span>', html)
    assert [text for _, text in runs] == ["[image: 2 tokens]", "Is this", " a &lt;b&gt;"]
    assert len({colour for colour, _ in runs}) == 3
    assert "</s>" not in html
    assert re.findall(r"0\.2em\">(\w+)</span>", html) == ["image", "question", "thing"]  # the prompt, which is everything, is not named


def test_tokens_without_a_tokenizer_are_counted() -> None:
    assert "2 tokens: no spans" in probe.TokenMap((5, 6), (), (), {})._repr_html_()


def test_colours_repeat_after_six_names() -> None:
    names = [f"span {number}" for number in range(7)]
    colours = re.findall(r"rgba\([^)]+\)", coloured([], names))
    assert colours[6] == colours[0]
    assert len(set(colours)) == 6


def test_an_inspection_is_short_and_shown_as_a_table() -> None:
    report = Inspection((("family", "llava"), ("layers", "8"), ("Hidden", "model.layers.{0..7}")))
    assert repr(report) == "Inspection(family llava, layers 8, 1 more row; print it)"
    assert report._repr_html_().count("<tr>") == 3
