"""Direct logit attribution: frozen norms, its table, and what is refused."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import probe
from probe.attribution.frozen_norm import NotANorm, frozen_norm
from tests import zoo


class OneMore(nn.RMSNorm):
    """Gemma's: 1 is added to the weight."""

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.rms_norm(states, self.normalized_shape, self.weight + 1, 1e-6)


NORMS = {
    "RMSNorm": nn.RMSNorm(8, eps=1e-6),
    "Gemma's": OneMore(8),
    "LayerNorm": nn.LayerNorm(8),
    "LayerNorm without weights": nn.LayerNorm(8, elementwise_affine=False),
}


@cache
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.mark.parametrize("name", NORMS)
def test_a_frozen_norm_gives_the_normed_state_and_its_transpose_the_same_product(name: str) -> None:
    torch.manual_seed(0)
    norm: Any = NORMS[name]
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    state, direction = torch.randn(2, 8)
    with torch.no_grad():
        found = frozen_norm(norm, state, norm(state))
        assert float((found(state) - norm(state)).abs().max()) < 1e-5
        assert float(found.transposed(direction) @ state + found.bias @ direction - norm(state) @ direction) == pytest.approx(0, abs=1e-5)
    assert found.centred == name.startswith("LayerNorm")


def test_what_is_no_norm_is_not_taken_for_one() -> None:
    state = torch.linspace(-1, 2, 8)
    with pytest.raises(NotANorm):
        frozen_norm(nn.Tanh(), state, state.tanh())


def test_parts_sum_to_the_difference_of_words_in_a_printed_table(wide_image: Image.Image) -> None:
    encoding = model().encode(wide_image, "Is there a cat?")
    found = model().attribute_logits(encoding, plus=7, minus=5)
    logits = model().next_logits(encoding)
    assert found.metric == pytest.approx(float(logits[7] - logits[5]), abs=1e-5)
    assert found.total == pytest.approx(found.metric, abs=1e-4)
    assert found.heads.shape == {"layer": 4, "head": 4}
    assert (found.others.shape, found.bias, found.mixed) == ({"layer": 0}, 0.0, ())
    assert float((found.attention_bias.data + found.heads.data.sum(1) - found.attention.data).abs().max()) < 1e-6
    assert [line.split()[0] for line in repr(found).splitlines()] == [
        "Attribution",
        "embeddings",
        "attention",
        "heads",
        "mlp",
        "bias",
        "total",
    ]
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_position_is_the_one_that_is_named(wide_image: Image.Image) -> None:
    encoding = model().encode(wide_image, "Is there a cat?")
    at = len(encoding.tokens) - 3
    first, second = (model().attribute_logits(encoding, plus=7, minus=5, at=position) for position in (at, -3))
    logits = model().run(encoding, probe.Logits(at)).logits().data[0, 0]
    assert first == second
    assert first.metric == pytest.approx(float(logits[7] - logits[5]), abs=1e-6)


def test_a_scale_behind_the_head_is_in_every_part() -> None:
    hf, processor = zoo.llava()
    ids = {"input_ids": torch.tensor([[1, 8, 9, 10]])}
    plain = probe.load(model=hf, processor=processor).attribute_logits(ids, plus=7, minus=5)
    hf.lm_head.register_forward_hook(lambda module, inputs, output: output)  # a hook that changes nothing
    scaled = probe.load(model=_Scaled.of(hf)).attribute_logits(ids, plus=7, minus=5)
    assert float((scaled.heads.data - 0.25 * plain.heads.data).abs().max()) < 1e-6
    assert scaled.metric == pytest.approx(0.25 * plain.metric, abs=1e-6)


class _Scaled:
    """A model whose logits are divided by 4, as Granite's are by its `logits_scaling`."""

    @staticmethod
    def of(hf: Any) -> Any:
        forward = hf.forward

        def divided(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.logits = output.logits / 4
            return output

        hf.forward = divided
        return hf


def test_a_hook_that_adds_to_the_stream_is_noticed() -> None:
    hf, _ = zoo.llava()
    block = hf.get_submodule("model.language_model.layers.2")
    block.register_forward_hook(lambda module, inputs, output: output + 0.5)
    with pytest.raises(probe.errors.InvalidRead, match="adds something that is not known, or a hook changes it"):
        probe.load(model=hf).attribute_logits({"input_ids": torch.tensor([[1, 8, 9, 10]])}, plus=7, minus=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plus": 7, "minus": 10**6}, "there is no token"),
        ({"plus": "yes", "minus": 5}, "a word needs an encoding"),
        ({"plus": 7, "minus": 5, "at": 4}, "Position 4"),
    ],
    ids=["token", "word", "position"],
)
def test_bad_input_is_refused_before_the_forward(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model().runtime.engine, "run", None)
    with pytest.raises(probe.ProbeError, match=message):
        model().attribute_logits({"input_ids": torch.tensor([[1, 8, 9, 10]])}, **options)


def test_a_batch_is_refused() -> None:
    with pytest.raises(probe.errors.InvalidRead, match="takes one sequence, got a batch of 2"):
        model().attribute_logits({"input_ids": torch.tensor([[1, 8], [1, 9]])}, plus=7, minus=5)
