"""Attention rows by hand, and the two ways in which a wrong row is stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probe.attention import AttentionCall
from probe.errors import UnmodelledAttention, WrongRows

MODULE = SimpleNamespace(is_causal=True)


def call(mask: torch.Tensor | None = None, heads: int = 1, **arguments: Any) -> AttentionCall:
    """Three tokens with one-dimensional queries and keys 0, 1, 2: scores are products."""
    line = torch.arange(3.0).reshape(1, 1, 3, 1)
    return AttentionCall.from_inputs(((MODULE, line.repeat(1, heads, 1, 1), line, line, mask), {"scaling": 1.0, **arguments}), "block 0")


def rows(made: AttentionCall, *positions: int) -> torch.Tensor:
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


@pytest.mark.parametrize("argument", ["position_bias", "s_aux"])
def test_an_argument_that_changes_the_weights_is_not_swallowed(argument: str) -> None:
    with pytest.raises(UnmodelledAttention, match=f"block 0 calls its attention with the argument '{argument}'"):
        call(**{argument: torch.zeros(1)})
    assert call(**{argument: None}).where == "block 0"


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
