"""Activations: named axes, and the way back onto the picture."""

from __future__ import annotations

import pytest
import torch

from probe.activation import Activation
from probe.errors import GridUnknown, NotRead
from probe.layout import Grid, ImageLayout

NEWLINES = ImageLayout((Grid("image", 2, 2, (0, 1, 3, 4), (0.0, 0.0, 4.0, 4.0), (4, 4)),), separators=(2, 5))


def test_layers_are_selected_by_their_number() -> None:
    read = Activation(torch.arange(6.0).reshape(3, 2), ("layer", "feature"), {"layer": (7, 9, 11)})
    assert read.sel(layer=9).data.tolist() == [2, 3]
    with pytest.raises(NotRead, match="layer 8 was asked for; this activation has layer 7, 9, 11"):
        read.sel(layer=8)
    with pytest.raises(NotRead, match="No axis 'head'"):
        read.sel(head=0)


def test_the_mean_is_taken_in_float32() -> None:
    read = Activation(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), ("feature",))
    assert read.mean("feature").data.dtype == torch.float32
    assert float(read.mean().data) == 1.5
    assert float(read.reduce("max").data) == 2


def test_newline_tokens_are_left_out_of_the_grid() -> None:
    read = Activation(torch.tensor([[10.0, 11, -1, 12, 13, -1]]), ("batch", "token"), layout=NEWLINES)
    assert read.grid().data.tolist() == [[[10, 11], [12, 13]]]
    assert read.grid().dims == ("batch", "row", "col")


def test_attention_is_folded_along_its_keys() -> None:
    read = Activation(torch.arange(12.0).reshape(2, 6), ("query", "key"), layout=NEWLINES)
    assert read.grid().data[1].tolist() == [[6, 7], [9, 10]]


def test_pixels_take_the_value_of_their_cell_centre_and_blend_between() -> None:
    read = Activation(torch.tensor([0.0, 8, 0, 0, 8, 0]), ("token",), layout=NEWLINES).grid().to_pixels()
    assert read.dims == ("height", "width")
    assert read.data[0].tolist() == [0, 2, 6, 8]


def test_pixels_that_the_model_did_not_see_are_nan() -> None:
    cropped = ImageLayout((Grid("image", 1, 1, (0,), (1.0, 0.0, 3.0, 2.0), (2, 4)),))
    pixels = Activation(torch.tensor([5.0]), ("token",), layout=cropped).grid().to_pixels().data
    assert torch.isnan(pixels[:, [0, 3]]).all()
    assert pixels[:, 1:3].tolist() == [[5, 5], [5, 5]]


def test_tokens_that_are_no_image_do_not_fold() -> None:
    with pytest.raises(GridUnknown, match="cannot be folded onto the image: it is a word"):
        Activation(torch.zeros(3), ("token",), unfoldable="it is a word").grid()
    with pytest.raises(GridUnknown, match="Fold it first"):
        Activation(torch.zeros(3), ("token",)).to_pixels()


def test_bfloat16_becomes_float32_in_numpy() -> None:
    assert Activation(torch.ones(2, dtype=torch.bfloat16), ("feature",)).numpy().dtype.name == "float32"


def test_tokens_are_compared_with_one_feature_by_cosine() -> None:
    image = Activation(torch.tensor([[[3.0, 4], [0, 2], [0, 0]]]), ("batch", "token", "feature"))
    words = Activation(torch.tensor([[[9.0, 9], [1, 0]]]), ("batch", "token", "feature"))
    cosine = image.cosine(words.isel(token=-1))
    assert cosine.dims == ("batch", "token")
    assert cosine.data[0].tolist() == pytest.approx([0.6, 0, 0])
    with pytest.raises(NotRead, match="Select one feature of it first"):
        image.cosine(words)
    with pytest.raises(NotRead, match="Place 2 of token was asked for; this activation has 2 of them"):
        words.isel(token=2)


def test_a_comparison_keeps_the_way_back_to_the_picture() -> None:
    image = Activation(torch.rand(2, 1, 6, 3), ("layer", "batch", "token", "feature"), {"layer": (4, 5)}, layout=NEWLINES)
    word = Activation(torch.rand(2, 1, 3), ("layer", "batch", "feature"), {"layer": (4, 5)})
    assert image.cosine(word).grid().shape == {"layer": 2, "batch": 1, "row": 2, "col": 2}
