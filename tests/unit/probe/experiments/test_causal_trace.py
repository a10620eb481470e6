"""Causal traces, against runs of plain Hugging Face with a hook that puts the clean states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

import probe
from tests import zoo

TOLERANCE = 1e-5  # float32, max abs over logits of size 1: the same sums in batches of another shape
METRIC = probe.LogitDifference(1000, 2000)


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    built, processor = zoo.llava()
    return probe.load(model=built, processor=processor)


@pytest.fixture(scope="module")
def inputs(model: probe.Probe, wide_image: Image.Image) -> tuple[probe.Encoding, probe.Encoding]:
    other = ImageOps.invert(wide_image)
    return model.encode(wide_image, "Is there a cat in it?"), model.encode(other, "Is there a dog in it?")


@torch.no_grad()
def _metric(model: probe.Probe, encoding: probe.Encoding) -> float:
    logits = model.model(**encoding.inputs).logits[0, -1]
    return float(logits[METRIC.plus] - logits[METRIC.minus])


def _hooked(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding], module: Any, positions: tuple[int, ...]) -> float:
    """The metric of the corrupt input with the clean output of a module at some positions."""
    kept: list[Tensor] = []
    at = torch.tensor(positions)

    def keep(_: Any, __: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    def put(_: Any, __: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, at] = kept[0][:, at]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    for encoding, hook in zip(inputs, (keep, put), strict=True):
        handle = module.register_forward_hook(hook)
        value = _metric(model, encoding)
        handle.remove()
    return value


@pytest.mark.parametrize(
    ("read", "inside"),
    [(probe.Hidden, ""), (probe.AttentionOutput, ".self_attn"), (probe.MLPOutput, ".mlp")],
    ids=lambda read: str(read)[-18:],
)
def test_each_number_is_that_of_a_hooked_run(
    model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding], read: Any, inside: str
) -> None:
    places = ["image", "question", -1, -4, 2]
    layers = [1, 2, 3]
    traced = probe.causal_trace(model, *inputs, layers=layers, places=places, metric=METRIC, read=read)
    assert traced.dims == ("layer", "place")
    assert traced.coords == {"layer": (1, 2, 3)}
    assert traced.data.dtype == torch.float32
    tokens = inputs[1].tokens
    for row, layer in enumerate(layers):
        # Hidden state l is the output of block l - 1.
        module = model.model.get_submodule(model.modules.layers[layer - (read is probe.Hidden)] + inside)
        for col, place in enumerate(places):
            expected = _hooked(model, inputs, module, tokens.resolve(place))
            assert abs(float(traced.data[row, col]) - expected) <= TOLERANCE
    assert abs(traced.clean - _metric(model, inputs[0])) <= TOLERANCE
    assert abs(traced.corrupt - _metric(model, inputs[1])) <= TOLERANCE
    assert abs(traced.clean - traced.corrupt) > 1e-2


def test_the_last_token_of_the_last_layer_carries_everything(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding]) -> None:
    traced = probe.causal_trace(model, *inputs, layers=[0, 4], places=[-1, -3], metric=METRIC)
    last = len(inputs[0].tokens) - 1
    assert traced.dims == ("layer", "token")
    assert traced.coords == {"layer": (0, 4), "token": (last, last - 2)}
    share = traced.recovered()
    assert abs(float(share.sel(layer=4, token=last).data) - 1) <= TOLERANCE
    assert float(share.sel(layer=4, token=last - 2).data) == pytest.approx(0, abs=TOLERANCE)


def test_places_keep_their_names_and_may_be_several_positions(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding]) -> None:
    named = [encoding.with_spans({"head": probe.Span((5, 6))}) for encoding in inputs]
    places = ["image", (-2, -1), "head", -1, probe.Span((3, 4))]
    traced = probe.causal_trace(model, *named, layers=[1, 2], places=places, metric=METRIC)
    assert traced.words == ("image", "-2, -1", "head", "-1", "positions 3, 4")
    by_place = traced.sel(layer=2, place=["head", "image"])
    assert by_place.words == ("head", "image")
    assert torch.equal(by_place.data, traced.data[1, [2, 0]])
    assert torch.equal(traced.recovered().sel(place="-2, -1").data, traced.recovered().data[:, 1])
    module = model.model.get_submodule(model.modules.layers[1])
    length = len(inputs[0].tokens)
    assert abs(float(by_place.sel(place="image").data) - float(traced.data[1, 0])) == 0
    assert abs(float(traced.data[1, 1]) - _hooked(model, inputs, module, (length - 2, length - 1))) <= TOLERANCE
    with pytest.raises(probe.errors.NotRead, match="place 'word' was asked for; this activation has 'image', '-2, -1'"):
        traced.sel(place="word")
    with pytest.raises(probe.errors.NotRead, match=r"Choose one by isel\(\)"):
        probe.causal_trace(model, *inputs, layers=1, places=["image", "image"], metric=METRIC).sel(place="image")


def test_the_metric_may_be_in_tokens(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding]) -> None:
    ours = probe.causal_trace(model, *inputs, layers=1, places=-1, metric=probe.TokenDifference(METRIC.plus, METRIC.minus))
    assert ours == probe.causal_trace(model, *inputs, layers=1, places=-1, metric=METRIC)


def test_a_map_over_image_tokens_folds_onto_the_image(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding]) -> None:
    image = inputs[1].tokens.span("image")
    traced = probe.causal_trace(model, *inputs, layers=2, places=image.positions, metric=METRIC)
    folded = traced.recovered().grid()
    assert folded.dims == ("layer", "row", "col")
    assert torch.equal(folded.data.flatten(1), traced.recovered().data)


def test_a_clean_input_patched_into_itself_changes_nothing(model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding]) -> None:
    traced = probe.causal_trace(model, inputs[0], inputs[0], layers="all", places=["image", -1], metric=METRIC)
    assert float((traced.data - traced.clean).abs().max()) <= TOLERANCE
    assert traced.clean == traced.corrupt
    with pytest.raises(probe.errors.InvalidRead, match="no difference to carry over"):
        traced.recovered()


def test_bad_input_gets_an_error_before_any_forward(
    model: probe.Probe, inputs: tuple[probe.Encoding, probe.Encoding], wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model, "forward", lambda **_: pytest.fail("a forward ran"))
    clean, corrupt = inputs
    longer = model.encode(wide_image, "Is there a cat in it, or is it a dog?")
    with pytest.raises(probe.errors.InvalidRead, match="equal length; the clean one has"):
        probe.causal_trace(model, clean, longer, places=-1, metric=METRIC)
    with pytest.raises(probe.errors.InvalidRead, match="name places"):
        probe.causal_trace(model, clean, corrupt, places=None, metric=METRIC)
    with pytest.raises(probe.errors.SpanNotFound, match="wrd"):
        probe.causal_trace(model, clean, corrupt, places=["wrd"], metric=METRIC)
    with pytest.raises(probe.errors.InvalidLayer, match="Layer 9"):
        probe.causal_trace(model, clean, corrupt, places=-1, layers=9, metric=METRIC)
    with pytest.raises(probe.errors.InvalidRead, match=r"patch probe\.Hidden"):
        probe.causal_trace(model, clean, corrupt, places=-1, metric=METRIC, read=probe.Logits)
    with pytest.raises(probe.errors.InvalidRead, match="the word is"):
        probe.causal_trace(model, clean, corrupt, places=-1, metric=probe.LogitDifference("umbrellas of Cherbourg", "no"))
    with pytest.raises(probe.errors.InvalidRead, match="there is no token 1000000; this model has tokens 0 to"):
        probe.causal_trace(model, clean, corrupt, places=-1, metric=probe.LogitDifference(10**6, 0))
    with pytest.raises(probe.errors.InvalidRead, match="there is no token 1000000"):
        probe.causal_trace(model, clean, corrupt, places=-1, metric=probe.TokenDifference(10**6, 0))
    with pytest.raises(probe.errors.InvalidRead, match="A difference of two logits was expected"):
        probe.causal_trace(model, clean, corrupt, places=-1, metric="yes")  # type: ignore[arg-type]
    with pytest.raises(probe.errors.InvalidRead, match="a position is"):
        probe.causal_trace(model, clean, corrupt, places=[(1.5, 2)], metric=METRIC)
    moved = corrupt.with_spans({"here": probe.Span((5, 6))})
    with pytest.raises(probe.errors.InvalidRead, match="same in both inputs"):
        probe.causal_trace(model, clean.with_spans({"here": probe.Span((6, 7))}), moved, places=["here"], metric=METRIC)
