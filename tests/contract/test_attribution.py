"""What the parts of a model add sums to the difference of two logits, in every family whose blocks add their parts.

Norm: the absolute difference from plain Hugging Face's logits, over the sum of the parts' absolute values. Some fifty float32 products are added
up, each with a rounding: 1e-5. Factors that the tiny models have at 1 are set to another value first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import probe
from probe.attribution.decomposition import output_head
from tests import families
from tests.contract.test_parts import IMAGE_BETWEEN_BLOCKS, NORMED_SUMS, STREAMS
from tests.contract.test_parts import _scale as scale_factors
from tests.families.daily import daily

TOLERANCE = 1e-5
PLUS, MINUS = 7, 5

REFUSED = {*NORMED_SUMS, *STREAMS, "inkling2"}
"""A block's output is no sum of parts."""

CAPPED = {"diffusion_gemma": 30.0, "mistral_large4": 30.0, "muse_glimmer": 20.0, "muse_spark": 20.0}
MIXED_HEADS = {"inkling_mm_model"}
"""A convolution over the tokens is behind the attention's heads."""


@cache
def built(name: str) -> tuple[probe.Probe, Any]:
    hf, inputs = families.build(name)
    scale_factors(hf)
    return probe.load(model=hf), inputs


def position(name: str) -> int:
    """The last token; where features are added between blocks to the image's tokens alone, the last of these."""
    model, inputs = built(name)
    if name not in set(IMAGE_BETWEEN_BLOCKS) - {"idefics"}:
        return -1
    return int((inputs["input_ids"][0] == model.modules.image_token_id).nonzero()[-1])


def plain_logits(name: str) -> Tensor:
    model, inputs = built(name)
    hf: Any = model.model
    with torch.no_grad():
        return hf(**model.backbone.forward_inputs(hf, inputs), use_cache=False).logits[0, position(name)].double()


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES.keys() - REFUSED)))
def test_the_parts_sum_to_the_difference_of_the_logits(name: str) -> None:
    model, inputs = built(name)
    found = model.attribute_logits(inputs, plus=PLUS, minus=MINUS, at=position(name))
    logits = plain_logits(name)
    if name in CAPPED:
        logits = CAPPED[name] * torch.atanh(logits / CAPPED[name])
        assert found.note == f"before the logits are capped at {CAPPED[name]:g}"
    else:
        assert found.note == ""
    parts = [found.attention.data, found.mlp.data, found.others.data, torch.tensor([found.embeddings, found.bias])]
    size = float(torch.cat(parts).abs().sum())
    assert abs(found.total - float(logits[PLUS] - logits[MINUS])) <= TOLERANCE * size
    assert min(float(part.abs().max()) for part in parts if part.numel()) > 0


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_families_that_add_nothing_up_are_refused_before_any_forward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = built(name)
    monkeypatch.setattr(model.runtime.engine, "run", None)
    with pytest.raises(
        probe.errors.InvalidRead, match=f"The logits of {name} cannot be attributed to its parts: (a block|each block|blocks)"
    ):
        model.attribute_logits(inputs, plus=PLUS, minus=MINUS)


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES.keys() - REFUSED - MIXED_HEADS)))
def test_the_heads_and_the_bias_behind_them_are_the_attention(name: str) -> None:
    """Without its projection's bias an attention is its heads alone: to 1e-5 of the largest."""
    model, inputs = built(name)
    found = model.attribute_logits(inputs, plus=PLUS, minus=MINUS)
    assert found.mixed == ()
    projections = [model.model.get_submodule(part.projection) for part in model.modules.parts if part.projection]
    norms = [model.model.get_submodule(part.attention) for part in model.modules.parts if part.attention]
    if all(getattr(module, "bias", None) is None for module in (*projections, *norms)):
        assert float(found.attention_bias.data.abs().max()) <= 1e-5 * float(found.heads.data.abs().max())


@pytest.mark.parametrize("name", sorted(MIXED_HEADS))
def test_heads_that_are_mixed_before_they_are_added_are_left_out(name: str) -> None:
    model, inputs = built(name)
    found = model.attribute_logits(inputs, plus=PLUS, minus=MINUS)
    assert found.mixed == found.attention.coords["layer"]
    assert found.heads.data.shape[0] == 0


def test_a_head_adds_what_the_logits_lose_without_it_where_nothing_is_behind() -> None:
    """The last block's attention with its MLP at 0: only the final norm's scale, which is divided out, sees the head go."""
    model, inputs = built("llava")
    last = len(model.modules.layers) - 1
    silent = probe.edit.zero(probe.MLPOutput(last))
    head = probe.edit.zero(probe.HeadOutput(last, at=-1, heads=2))
    state = probe.Hidden(last + 1, at=-1, normed=False)
    without = [model.run(inputs, [state], edits=edits)[state].data[0, 0, 0] for edits in ([silent], [silent, head])]
    norm: Any = model.model.get_submodule(str(model.modules.final_norm))
    rows = output_head(model.model).weight  # type: ignore[union-attr]
    clean = model.run(inputs, [state])[state].data[0, 0, 0]
    scale = torch.rsqrt(clean.pow(2).mean() + norm.variance_epsilon)
    expected = float(((without[0] - without[1]) * scale * norm.weight) @ (rows[PLUS] - rows[MINUS]))
    found = model.attribute_logits(inputs, plus=PLUS, minus=MINUS)
    assert abs(float(found.heads.sel(layer=last, head=2).data) - expected) <= 1e-5
