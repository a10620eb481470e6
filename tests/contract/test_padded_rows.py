"""Attention rows of padded sequences, against Hugging Face's own eager attentions of the same padded input."""

from __future__ import annotations

import pytest
import torch

import probe
from tests import families

TOLERANCE = 1e-5  # float32, max abs: what two kernels' hidden states drift apart by over four small blocks


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm"])
def test_rows_of_a_padded_sequence_are_eagers(name: str, side: str) -> None:
    model, inputs = families.build(name)
    ids = inputs["input_ids"]
    pads = 5
    before, behind = (pads, 0) if side == "left" else (0, pads)
    padded = {
        key: torch.nn.functional.pad(value, (before, behind)) if value.shape == ids.shape else value
        for key, value in {**inputs, "attention_mask": torch.ones_like(ids)}.items()
    }
    rows = probe.load(model=model).run(padded, probe.Attention("all", query=[-1, -2, -4], key=None)).attention().data[:, 0]
    model.set_attn_implementation("eager")
    eager = model(**padded, output_attentions=True, use_cache=False).attentions
    length = ids.shape[1]
    wanted = [before + length - 1, before + length - 2, before + length - 4]
    expected = torch.stack([layer[0][:, wanted, before : before + length] for layer in eager])
    assert float((rows - expected).abs().max()) <= TOLERANCE
