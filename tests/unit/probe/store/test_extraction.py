"""What is kept of one trace: layer by layer, in the store's dtype."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.errors import InvalidRead, NotFinite
from probe.store.collecting.extraction import described, extract
from tests import zoo


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch")


@pytest.fixture(scope="module")
def encoding(model: probe.Probe) -> probe.Encoding:
    return model.encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)), "cat")


def test_each_layer_is_what_the_trace_has_of_it(model: probe.Probe, encoding: probe.Encoding) -> None:
    read = probe.Hidden("all", at="image")
    trace = model.run(encoding, read)
    kept = extract(trace, [read], described(trace, [read], None), "bfloat16", "it")
    assert list(kept.values) == [f"r0.l{layer}" for layer in range(trace.depth[0])]
    for layer, value in enumerate(kept.values.values()):
        assert torch.equal(value, trace.hidden("image", layer=layer).data.bfloat16())


@pytest.mark.parametrize(("value", "fits"), [(65519.0, True), (-65519.0, True), (65520.0, False), (-65520.0, False)])
def test_the_largest_of_each_sign_decides_whether_a_dtype_is_too_small(
    model: probe.Probe, encoding: probe.Encoding, value: float, *, fits: bool
) -> None:
    """float16 rounds to 65504 below 65520, and to infinity from there on. A logit of -inf is the model's own, and is kept."""
    read = probe.Logits(at=-1)
    trace = model.run(encoding, read)
    rows = next(iter(trace.captured.logits.values()))
    rows[0][..., 0], rows[0][..., 1] = -torch.inf, value
    stored = described(trace, [read], None)
    if fits:
        (kept,) = extract(trace, [read], stored, "float16", "it").values.values()
        assert kept[..., 0].item() == -torch.inf
        assert abs(kept[..., 1].item()) == 65504
    else:
        with pytest.raises(NotFinite, match=r"it, Logits.* are beyond float16"):
            extract(trace, [read], stored, "float16", "it")


def test_layers_of_different_shapes_are_refused(model: probe.Probe, encoding: probe.Encoding) -> None:
    read = probe.Hidden([1, 2], at="image")
    trace = model.run(encoding, read)
    stored = described(trace, [read], None)
    states = {address: [row[:5] for row in rows] if address[0].layer == 2 else rows for address, rows in trace.captured.states.items()}
    uneven = replace(trace, captured=replace(trace.captured, states=states))
    with pytest.raises(InvalidRead, match=r"it, Hidden.*: layer 2 is Activation\(.*, the first one Activation\("):
        extract(uneven, [read], stored, "float32", "it")
