"""Activations: named axes, and the way back onto the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from probe.errors import GridUnknown, InvalidRead, NotRead
from probe.tokens.layout import Grid, ImageLayout
from probe.tracing.activation import Activation

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
        Activation(torch.zeros(3), ("token",), no_grid_reason="it is a word").grid()
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
    with pytest.raises(NotRead, match="Index 2 of token was asked for; this activation has 2 of them"):
        words.isel(token=2)


def test_a_comparison_keeps_the_way_back_to_the_picture() -> None:
    image = Activation(torch.rand(2, 1, 6, 3), ("layer", "batch", "token", "feature"), {"layer": (4, 5)}, layout=NEWLINES)
    word = Activation(torch.rand(2, 1, 3), ("layer", "batch", "feature"), {"layer": (4, 5)})
    assert image.cosine(word).grid().shape == {"layer": 2, "batch": 1, "row": 2, "col": 2}


READ = Activation(torch.arange(12.0).reshape(3, 4), ("layer", "token"), {"layer": (7, 9, 11), "token": (5, 6, 7, 5)})
"""Three layers at the positions 5, 6, 7 and once more 5: 0 to 3, 4 to 7, 8 to 11."""


@pytest.mark.parametrize(
    ("taken", "layers", "data"),
    [
        (READ.sel(layer=[11, 7]), (11, 7), [[8, 9, 10, 11], [0, 1, 2, 3]]),
        (READ.sel(layer=np.array([9])), (9,), [[4, 5, 6, 7]]),
        (READ.sel(layer=range(7, 11, 2)), (7, 9), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (READ.sel(layer=slice(8, 11)), (9,), [[4, 5, 6, 7]]),
        (READ.sel(layer=slice(None, 9)), (7,), [[0, 1, 2, 3]]),
        (READ.isel(layer=[-1, 0]), (11, 7), [[8, 9, 10, 11], [0, 1, 2, 3]]),
        (READ.isel(layer=slice(None, None, -1)), (11, 9, 7), [[8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]]),
        (READ[1:], (9, 11), [[4, 5, 6, 7], [8, 9, 10, 11]]),
        (READ[[2]], (11,), [[8, 9, 10, 11]]),
    ],
)
def test_several_layers_keep_their_axis_and_their_numbers(taken: Activation, layers: tuple[int, ...], data: list[list[float]]) -> None:
    assert taken.coords == {"layer": layers, "token": (5, 6, 7, 5)}
    assert taken.data.tolist() == data


@pytest.mark.parametrize(
    "taken", [READ.sel(layer=-1), READ.sel(layer=np.int64(11)), READ.isel(layer=torch.tensor(2)), READ[-1], READ[2, ...]]
)
def test_one_layer_drops_its_axis(taken: Activation) -> None:
    assert taken.dims == ("token",)
    assert taken.coords == {"token": (5, 6, 7, 5)}
    assert taken.data.tolist() == [8, 9, 10, 11]


def test_axes_without_coordinates_get_those_of_what_was_taken() -> None:
    heads = Activation(torch.arange(3.0), ("head",))
    assert heads.isel(head=[2, 0]).coords == {"head": (2, 0)}
    assert heads.isel(head=[2, 0]).sel(head=0).data.item() == 0
    assert heads.sel(head=-1).data.item() == 2


def test_places_are_taken_along_several_axes_at_once() -> None:
    assert READ[0, 1:3].data.tolist() == [1, 2]
    assert READ[..., 1].data.tolist() == [1, 5, 9]
    assert [row.data[0].item() for row in READ] == [0, 4, 8]
    assert len(READ) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: READ.sel(token=5), r"token 5 occurs 2 times, at the indices 0, 3\. Choose one, as by isel\(token=0\)"),
        (lambda: READ.sel(layer=[7, 8]), "layer 8 was asked for; this activation has layer 7, 9, 11"),
        (lambda: READ.sel(layer=7.5), r"sel\(layer=\.\.\.\) takes an integer, several in a list, or a slice"),
        (lambda: READ.sel(layer=slice(-2, None)), "a slice of labels has no step and nothing negative"),
        (lambda: READ.sel(head=0), "No axis 'head'"),
        (lambda: READ.isel(layer=[0, 3]), "Index 3 of layer was asked for; this activation has 3 of them"),
        (lambda: READ.isel(layer=slice(0, 1.5)), "a slice has integers"),
        (lambda: READ[0, 0, 0], "3 indices were given, at most one for each axis; the axes here are layer, token"),
        (lambda: READ["layer"], r"isel\(layer=\.\.\.\) takes an integer"),
        (lambda: len(READ.mean()), "single number without an axis"),
        (lambda: READ.map(torch.zeros(3)), r"map\(\) keeps the axes of .* given a tensor of shape \(3,\)"),
    ],
)
def test_what_is_not_there_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(NotRead, match=message):
        wrong()


def test_an_axis_that_map_makes_shorter_loses_its_coordinates() -> None:
    steps = READ.map(READ.data[1:] - READ.data[:-1])
    assert steps.coords == {"token": (5, 6, 7, 5)}
    with pytest.raises(NotRead, match="layer 9 was asked for; this activation has layer 0, 1"):
        steps.sel(layer=9)
    assert READ.map(READ.data * 2).sel(layer=9).data.tolist() == [8, 10, 12, 14]


def test_an_image_that_lost_tokens_does_not_fold() -> None:
    image = Activation(torch.arange(6.0), ("token",), layout=NEWLINES)
    for part in (image.map(torch.zeros(5)), image.isel(token=slice(0, 5)), image.isel(token=[1, 0, 2, 3, 4, 5])):
        with pytest.raises(GridUnknown, match="a part of what was read there"):
            part.grid()
    assert image[:].grid().data.tolist() == [[0, 1], [3, 4]]
    with pytest.raises(GridUnknown, match="not a map on a grid"):
        image.grid()[:1].to_pixels()


def test_numpy_takes_an_activation_as_an_array() -> None:
    assert np.asarray(READ).tolist() == READ.data.tolist()
    assert np.asarray(READ, dtype=np.float16).dtype == np.float16
    assert np.array(Activation(torch.ones(2, dtype=torch.bfloat16), ("feature",)), copy=True).dtype == np.float32


def test_coordinates_are_as_many_as_their_axis_is_long() -> None:
    with pytest.raises(InvalidRead, match="The axis layer is 2 long and has 3 coordinates"):
        Activation(torch.zeros(2), ("layer",), {"layer": (1, 2, 3)})
    with pytest.raises(InvalidRead, match=r"shape \(2,\) has 1 axes, and 2 names"):
        Activation(torch.zeros(2), ("layer", "token"))


HEADS = Activation(
    torch.arange(2.0 * 1 * 2 * 3 * 2).reshape(2, 1, 2, 3, 2),
    ("layer", "batch", "head", "token", "feature"),
    {"layer": (4, 7), "head": (0, 3), "token": (5, 6, 9)},
    normed=(False, True),
)
"""Two heads, 0 and 3, of layers 4 and 7 at the positions 5, 6 and 9."""


@pytest.mark.parametrize(
    ("taken", "coords", "tensor"),
    [
        (HEADS[0], {"head": (0, 3), "token": (5, 6, 9)}, HEADS.data[0]),
        (HEADS[:, :, :, 1:], {"layer": (4, 7), "head": (0, 3), "token": (6, 9)}, HEADS.data[:, :, :, 1:]),
        (HEADS[:, 0, 1], {"layer": (4, 7), "token": (5, 6, 9)}, HEADS.data[:, 0, 1]),
        (HEADS[[1], ..., 0], {"layer": (7,), "head": (0, 3), "token": (5, 6, 9)}, HEADS.data[[1], ..., 0]),
        (HEADS.sel(layer=-1, head=3), {"token": (5, 6, 9)}, HEADS.data[1, :, 1]),
        (HEADS.sel(layer=7, token=[9, 5]), {"head": (0, 3), "token": (9, 5)}, HEADS.data[1][:, :, [2, 0]]),
        (HEADS.sel(head=[3, 0]).isel(token=-1), {"layer": (4, 7), "head": (3, 0)}, HEADS.data[:, :, [1, 0], 2]),
    ],
)
def test_heads_are_selected_beside_other_axes(taken: Activation, coords: dict[str, tuple[int, ...]], tensor: torch.Tensor) -> None:
    assert taken.coords == coords
    assert torch.equal(taken.data, tensor)


def test_iterating_gives_the_items_of_the_first_axis() -> None:
    assert [one.normed for one in HEADS] == [(False,), (True,)]
    assert [one.coords["head"] for one in HEADS] == [(0, 3), (0, 3)]
    rows = Activation(torch.rand(1, 2, 3, 4), ("batch", "head", "query", "key"), {"head": (0, 3), "query": (7, 8, 9)})
    assert rows[0].sel(head=3, query=8).data.tolist() == rows.data[0, 1, 1].tolist()


def test_a_head_that_was_not_read_is_refused() -> None:
    with pytest.raises(NotRead, match="head 1 was asked for; this activation has head 0, 3"):
        HEADS.sel(head=1)


def test_which_layers_are_normed_goes_with_the_layers() -> None:
    assert HEADS.sel(layer=[7]).normed == (True,)
    assert HEADS[::-1].normed == (True, False)
    assert HEADS.sel(layer=4).normed == (False,)
    assert HEADS.mean("layer").normed is None
    assert HEADS.sel(layer=[4]).mean("layer", "token").normed == (False,)
    assert HEADS.mean("feature").normed is None
    assert HEADS.map(HEADS.data * 2).normed == (False, True)
    assert HEADS.map(HEADS.data[1:]).normed is None
    with pytest.raises(InvalidRead, match=r"normed=\(True,\) has 1 values for 2 layers"):
        Activation(torch.zeros(2), ("layer",), normed=(True,))


def test_new_axes_and_masks_are_refused() -> None:
    for wrong in (lambda: READ[None], lambda: READ[:, None]):
        with pytest.raises(NotRead, match=r"Index None of (layer|token) would add an axis.*\.data\[None\]"):
            wrong()
    for mask in (True, READ.data[0] > 1, [True, False, True]):
        with pytest.raises(NotRead, match="takes an integer, several in a list, or a slice"):
            _ = READ[mask]  # type: ignore[index]
    with pytest.raises(NotRead, match="token None would add an axis"):
        READ.sel(token=None)  # type: ignore[arg-type]


def test_an_activation_moves_between_devices_and_dtypes() -> None:
    image = Activation(torch.arange(6.0), ("token",), {"token": tuple(range(6))}, layout=NEWLINES, normed=(True,))
    for half in (image.to(torch.float16), image.to("float16"), image.to("cpu", torch.float16), image.to(torch.float16, "cpu")):
        assert half.data.dtype == torch.float16
        assert (half.coords, half.layout, half.normed) == (image.coords, NEWLINES, (True,))
    assert image.to("meta").data.device.type == "meta"
    assert image.to() == image
    for wrong in (("gpu",), ("cpu", "cpu"), (torch.float16, "float32"), (3,)):
        with pytest.raises(InvalidRead, match="one device, such as 'cuda:0' or 'cpu', one dtype"):
            image.to(*wrong)  # type: ignore[arg-type]


def test_words_are_selected_by_themselves_and_by_their_tokens() -> None:
    lens = Activation(torch.arange(6.0).reshape(2, 3), ("token", "word"), {"word": (50, 8, 3)}, words=("cat", "dog", "cow"))
    assert lens.sel(word="dog").data.tolist() == [1, 4]
    assert lens.sel(word="dog").words == ()
    assert lens.sel(word=8) == lens.sel(word="dog")
    taken = lens.sel(word=["cow", "cat"])
    assert (taken.words, taken.coords, taken.data.tolist()) == (("cow", "cat"), {"word": (3, 50)}, [[2, 0], [5, 3]])
    assert lens[:, 1:].words == ("dog", "cow")
    with pytest.raises(NotRead, match="word 'horse' was asked for; this activation has 'cat', 'dog', 'cow'"):
        lens.sel(word="horse")
    with pytest.raises(NotRead, match="takes an integer"):
        lens.sel(token="cat")
    with pytest.raises(InvalidRead, match="1 words were given for"):
        Activation(torch.zeros(2), ("word",), words=("cat",))
