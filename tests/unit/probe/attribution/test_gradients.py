"""Gradients: integrated ones against what the metric changes by, edits in force, and a model that is left as it was."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import probe
from probe.inputs.encoding import Encoding
from probe.tracing.hooks import ModelState
from tests import zoo

METRIC = probe.LogitDifference(7, 5)


@cache
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.fixture(scope="module")
def encoding(wide_image: Image.Image) -> Encoding:
    return model().encode(wide_image, "Is there a cat?")


@pytest.fixture
def unchanged() -> Iterator[None]:
    """The model's hooks and weights are what they were, no weight needs gradients, and whether they are recorded is as the test left it."""
    hf, enabled = model().model, torch.is_grad_enabled()
    before = ModelState(hf)
    yield
    assert torch.is_grad_enabled() == enabled
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in hf.parameters())
    assert before.is_of(hf)


def value(y: Encoding, edits: Any = ()) -> float:
    logits = model().run(y, probe.Logits(-1), edits=edits).logits().data[0, 0]
    return float(logits[7] - logits[5])


def test_a_step_along_the_gradient_changes_the_metric_by_its_length(encoding: Encoding, unchanged: None) -> None:
    """The quotient of differences at 1e-2: float32 and curvature leave 2 %."""
    read = probe.Hidden(2, at="image")
    found = model().gradients(encoding, of=METRIC, to=read)[read].data[0]
    step = found / found.norm() * 1e-2
    ahead, behind = (value(encoding, probe.edit.add(read, sign * step[0])) for sign in (1, -1))
    assert (ahead - behind) / 2e-2 == pytest.approx(float(found.norm()), rel=0.02)


def test_input_x_gradient_is_the_gradient_times_the_value(encoding: Encoding) -> None:
    read = probe.MLPOutput([1, 2], at="question")
    gradient = model().gradients(encoding, of=METRIC, to=read)[read].data
    product = model().gradients(encoding, of=METRIC, to=read, method="input_x_gradient")[read].data
    assert torch.equal(product, gradient * model().run(encoding, read)[read].data)


@pytest.mark.parametrize(
    "read",
    [probe.Projected(), probe.Hidden(2, at="image"), probe.HeadOutput(1, at=-1, heads=[0, 2]), probe.AttentionOutput(2, at=("image", -1))],
    ids=["projected", "hidden", "heads", "attention"],
)
def test_integrated_gradients_sum_to_what_the_metric_changes_by(encoding: Encoding, read: probe.Read) -> None:
    """From 0, with 64 steps: 1 % of the change. Where a norm sees nothing but the read, most of it happens near 0."""
    found = model().gradients(encoding, of=METRIC, to=read, method="integrated", steps=64)
    change = value(encoding) - value(encoding, probe.edit.zero(read))
    assert abs(change) > 1e-2
    assert float(found[read].data.sum()) == pytest.approx(change, rel=0.01)


def test_each_layer_is_integrated_by_itself_from_its_baseline(encoding: Encoding) -> None:
    read = probe.Hidden([1, 3], at="image")
    states = model().run(encoding, read)[read]
    baseline = states.mean("token").data[:, 0, None]
    found = model().gradients(encoding, of=METRIC, to=read, method="integrated", baseline=baseline, steps=32)[read]
    for number, layer in enumerate((1, 3)):
        replaced = probe.edit.replace(probe.Hidden(layer, at="image"), baseline[number])
        assert float(found.sel(layer=layer).data.sum()) == pytest.approx(value(encoding) - value(encoding, replaced), rel=0.01, abs=1e-4)


def test_too_few_steps_are_warned_of(encoding: Encoding) -> None:
    with pytest.warns(UserWarning, match="1 steps are too few"):
        model().gradients(encoding, of=METRIC, to=probe.Hidden(2, at="image"), method="integrated", steps=1)


def test_edits_are_in_force(encoding: Encoding) -> None:
    """With the attention from the last token to the image blocked everywhere, the image's states do not reach its logits."""
    knock_out = probe.edit.block(probe.Attention("all", query=-1, key="image"))
    read = probe.Hidden(3, at="image")
    assert float(model().gradients(encoding, of=METRIC, to=read)[read].data.abs().max()) > 0
    assert float(model().gradients(encoding, of=METRIC, to=read, edits=knock_out)[read].data.abs().max()) == 0


def test_the_gradient_goes_through_an_edit_behind_it(encoding: Encoding) -> None:
    read, halved = probe.Hidden(4, at=-1, normed=False), probe.edit.scale(probe.Hidden(4, at=-1), 0.5)
    whole, half = (model().gradients(encoding, of=METRIC, to=read, edits=edits)[read].data for edits in ((), halved))
    assert float((half - 0.5 * whole).abs().max()) <= 1e-6 * float(whole.abs().max())


def test_each_row_of_a_padded_batch_has_its_own_gradient() -> None:
    ids = torch.tensor([[1, 8, 9, 10, 11], [0, 0, 1, 12, 13]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    read = probe.Hidden(1, at=-1)
    both = model().gradients({"input_ids": ids, "attention_mask": mask}, of=METRIC, to=read)[read].data
    for row in range(2):
        kept = ids[row][mask[row].bool()][None]
        alone = model().gradients({"input_ids": kept, "attention_mask": torch.ones_like(kept)}, of=METRIC, to=read)[read].data
        assert float((both[:, row] - alone[:, 0]).abs().max()) <= 1e-5 * float(alone.abs().max())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_gradients_are_taken_inside_a_block_without_gradients(encoding: Encoding, mode: Any, unchanged: None) -> None:
    read = probe.Hidden(2, at="image")
    with mode():
        inside = model().gradients(encoding, of=METRIC, to=read)
        assert not torch.is_grad_enabled()
    assert inside == model().gradients(encoding, of=METRIC, to=read)
    assert not inside[read].data.requires_grad


def test_the_metric_may_be_any_function_of_a_rows_logits(encoding: Encoding) -> None:
    read = probe.Hidden(2, at="image")
    ours = model().gradients(encoding, of=lambda logits: logits[-1, 7] - logits[-1, 5], to=read)
    assert ours == model().gradients(encoding, of=METRIC, to=read)


def test_gradients_fold_onto_the_image_and_can_be_pickled(encoding: Encoding) -> None:
    found = model().gradients(encoding, of=METRIC, to=probe.Projected())
    assert found.projected().grid().shape["row"] == 4
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_run_that_fails_leaves_the_model_as_it_was(encoding: Encoding, unchanged: None) -> None:
    before = value(encoding)

    def broken(logits: Tensor) -> Tensor:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        model().gradients(encoding, of=broken, to=probe.Hidden(2))
    fails = probe.edit.apply(probe.Hidden(3), lambda states: states[:1])
    with pytest.raises(probe.errors.InvalidEdit):
        model().gradients(encoding, of=METRIC, to=probe.Hidden(2), edits=fails)
    assert value(encoding) == before


def test_a_gradient_that_is_not_finite_raises(encoding: Encoding) -> None:
    """The square root at 0 has an infinite slope."""
    with pytest.raises(probe.errors.NotFinite, match="The gradient is not finite"):
        model().gradients(encoding, of=lambda logits: (logits[-1, 7] - logits[-1, 7]).sqrt(), to=probe.Hidden(2))
    with pytest.raises(probe.errors.NotFinite, match="The metric is inf"):
        model().gradients(encoding, of=lambda logits: logits.sum() / 0, to=probe.Hidden(2))


def test_a_difference_of_tokens_is_that_of_their_words(encoding: Encoding) -> None:
    reads = probe.Hidden(2, at="image")
    ours = model().gradients(encoding, of=probe.TokenDifference(7, 5, at=-2), to=reads)
    assert ours == model().gradients(encoding, of=probe.LogitDifference(7, 5, at=-2), to=reads)


BEFORE_THE_FORWARD: dict[str, tuple[dict[str, Any], str]] = {
    "no read": ({"to": []}, "No reads were given"),
    "a read without gradients": ({"to": probe.Attention(1, query=-1)}, "Gradients are taken with respect to Hidden"),
    "no such layer": ({"to": probe.Hidden(99)}, "Layer 99"),
    "no such method": ({"method": "shap"}, "method='shap': one of 'gradient'"),
    "no steps": ({"method": "integrated", "steps": 0}, "steps=0"),
    "a baseline of another method": ({"baseline": 0.0}, "has none"),
    "a baseline of another width": ({"method": "integrated", "baseline": torch.zeros(7)}, "7 long along feature"),
    "two ways at one layer": ({"method": "integrated", "to": [probe.Hidden(2), probe.Hidden(2, at=-1)]}, "both of layer 2"),
    "a word without a processor's encoding": ({"of": probe.LogitDifference("a b c d", 5)}, "tokens"),
    "no such token": ({"of": probe.LogitDifference(7, 10**6)}, "there is no token 1000000"),
    "no such token by its id": ({"of": probe.TokenDifference(7, 10**6)}, "there is no token 1000000"),
    "no such position": ({"of": probe.LogitDifference(7, 5, at=10**6)}, "Position 1000000"),
    "a position by name": ({"of": probe.LogitDifference(7, 5, at="image")}, "at= takes one position"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BEFORE_THE_FORWARD)
def test_bad_input_is_refused_before_the_forward(case: str, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, message = BEFORE_THE_FORWARD[case]
    monkeypatch.setattr(model().runtime.engine, "run_edited", None)
    with pytest.raises(probe.ProbeError, match=message):
        model().gradients(encoding, **({"of": METRIC, "to": probe.Hidden(2)} | changed))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda logits: logits[-1], "a tensor of shape"),
        (lambda logits: 3.0, "a float"),
        (lambda logits: torch.tensor(1.0), "does not depend"),
        (lambda logits: logits[-1].detach().max(), "does not depend"),
    ],
    ids=["several numbers", "no tensor", "a constant", "a detached number"],
)
def test_a_metric_that_is_no_differentiable_number_is_refused(metric: Any, message: str, encoding: Encoding) -> None:
    with pytest.raises(probe.errors.InvalidRead, match=message):
        model().gradients(encoding, of=metric, to=probe.Hidden(2))


def test_no_warning_where_the_steps_are_enough(encoding: Encoding) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model().gradients(encoding, of=METRIC, to=probe.HeadOutput(1, at=-1), method="integrated", steps=32)
