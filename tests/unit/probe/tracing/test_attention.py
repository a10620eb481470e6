"""Attention rows by hand, and the two ways in which a wrong row is stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probe.errors import UnmodelledAttention, WrongRows
from probe.tracing.attention import AttentionCall, AttentionWeights

MODULE = SimpleNamespace(is_causal=True)


def call(mask: torch.Tensor | None = None, heads: int = 1, **arguments: Any) -> AttentionCall:
    """Three tokens with one-dimensional queries and keys 0, 1, 2: scores are products."""
    line = torch.arange(3.0).reshape(1, 1, 3, 1)
    return AttentionCall.from_inputs(((MODULE, line.repeat(1, heads, 1, 1), line, line, mask), {"scaling": 1.0, **arguments}), "block 0")


def rows(made: AttentionCall | AttentionWeights, *positions: int) -> torch.Tensor:
    return made.rows(0, torch.tensor(positions))


def test_without_a_mask_the_kernel_is_causal() -> None:
    row = rows(call(), 1)[0, 0]
    e = torch.e
    assert torch.allclose(row, torch.tensor([1 / (1 + e), e / (1 + e), 0.0]))


def test_a_boolean_mask_hides_and_an_additive_one_shifts() -> None:
    seen = torch.tensor([True, False, True]).expand(1, 1, 3, 3)
    added = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    assert torch.allclose(rows(call(seen), 2), rows(call(added), 2))
    assert rows(call(seen), 2)[0, 0, 1] == 0


def test_grouped_heads_share_their_keys() -> None:
    assert rows(call(heads=4), 2).shape == (4, 1, 3)


def test_softcap_bends_the_scores() -> None:
    score = torch.tensor([0.0, 2.0, 4.0])
    assert torch.allclose(rows(call(softcap=1.5), 2)[0, 0], torch.softmax(1.5 * torch.tanh(score / 1.5), 0))


def test_a_position_bias_is_added_to_the_scores() -> None:
    bias = torch.zeros(1, 1, 3, 3)
    bias[0, 0, 2] = torch.tensor([3.0, 0.0, -4.0])
    assert torch.allclose(rows(call(position_bias=bias), 2)[0, 0], torch.softmax(torch.tensor([3.0, 2.0, 0.0]), 0))


def test_a_sink_takes_its_share_of_the_softmax() -> None:
    row = rows(call(s_aux=torch.tensor([0.0])), 0)[0, 0]  # one score of 0, and the sink's
    assert torch.allclose(row, torch.tensor([0.5, 0.0, 0.0]))


def test_a_sink_may_differ_from_token_to_token() -> None:
    sinks = torch.tensor([0.0, 1.0, 4.0]).reshape(1, 1, 3, 1)
    assert torch.allclose(rows(call(sinks=sinks), 2)[0, 0], torch.softmax(torch.tensor([0.0, 2.0, 4.0, 4.0]), 0)[:3])


def test_rows_without_the_sink_that_the_kernel_had_are_stopped() -> None:
    made, positions = call(), torch.tensor([2])
    output = (rows(call(s_aux=torch.tensor([0.0])), 2) @ made.value[0]).transpose(0, 1)[None].expand(1, 3, 1, 1)
    with pytest.raises(WrongRows):
        made.check(0, positions, rows(made, 2), output)


def test_chosen_keys_are_taken_from_the_mask_and_refused_without_one() -> None:
    chosen = torch.zeros(1, 1, 3, 1)
    assert call(torch.ones(1, 1, 3, 3, dtype=torch.bool), block_indices=chosen).module_path == "block 0"
    with pytest.raises(UnmodelledAttention, match="block_indices"):
        call(block_indices=chosen)


def test_weights_that_a_module_returns_are_its_rows() -> None:
    weights = torch.softmax(torch.arange(9.0).reshape(1, 1, 3, 3), dim=-1)
    made = AttentionWeights.from_output((torch.zeros(1, 3, 1), weights), "block 0")
    assert torch.equal(rows(made, 2)[0, 0], weights[0, 0, 2])
    assert made.check(0, torch.tensor([2]), rows(made, 2), None) < 1e-6


def test_what_is_no_weights_is_not_taken_for_rows() -> None:
    with pytest.raises(UnmodelledAttention, match="returns no weights"):
        AttentionWeights.from_output((torch.zeros(1, 3, 8), None), "block 0")
    scores = AttentionWeights.from_output((torch.zeros(1, 3, 8), torch.ones(1, 1, 3, 3)), "block 0")
    with pytest.raises(WrongRows, match="sum to something 2 from 1"):
        scores.check(0, torch.tensor([2]), rows(scores, 2), None)


@pytest.mark.parametrize("argument", ["head_scale", "relative_bias"])
def test_an_argument_that_changes_the_weights_is_not_swallowed(argument: str) -> None:
    with pytest.raises(UnmodelledAttention, match=f"block 0 calls its attention with the argument '{argument}'"):
        call(**{argument: torch.zeros(1)})
    assert call(**{argument: None}).module_path == "block 0"


def test_a_row_that_does_not_give_the_kernels_output_is_not_returned() -> None:
    made = call()
    positions = torch.tensor([2])
    right = rows(made, 2)
    output = (right @ made.value[0]).transpose(0, 1)[None].expand(1, 3, 1, 1)
    assert made.check(0, positions, right, output) < 1e-6
    with pytest.raises(WrongRows, match="differ from the kernel's own output by"):
        made.check(0, positions, right.flip(-1), output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_outputs_are_compared_as_strictly_as_large_ones(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 9, 8, generator=generator).to(dtype) for _ in range(2))
    value = (1e-3 * torch.randn(1, 2, 9, 8, generator=generator)).to(dtype)
    made = AttentionCall.from_inputs(((MODULE, query, key, value, None), {"scaling": 0.35}), "block 0")
    positions = torch.arange(9)
    right = rows(made, *range(9))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.35).transpose(1, 2)
    assert made.check(0, positions, right, output) < 6e-2
    for wrong in (torch.zeros_like(right), torch.full_like(right, 1 / 9), right.roll(1, -1)):
        with pytest.raises(WrongRows):
            made.check(0, positions, wrong, output)


def test_a_float64_model_keeps_its_precision() -> None:
    line = torch.arange(3.0, dtype=torch.float64).reshape(1, 1, 3, 1)
    made = AttentionCall.from_inputs(((MODULE, line, line, line, None), {"scaling": 1.0}), "block 0")
    assert made.rows(0, torch.tensor([2])).dtype == torch.float64
