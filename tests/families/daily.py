"""Which of the families the daily tests ask: of each kind one. The slow tests ask all."""

from __future__ import annotations

from collections.abc import Container, Iterable

import pytest
from _pytest.mark import ParameterSet

DAILY = frozenset(
    {
        *("llava", "llava_next", "video_llava"),  # a square; tiles with row ends; videos
        *("qwen2_5_vl", "qwen3_vl"),  # any size and three-part positions: windows; states added in the decoder
        "internvl",  # tiles with marks between them
        "gemma3",  # image tokens attend to later ones
        *("mllama", "instructblip", "florence2"),  # cross-attention, queries, encoder and decoder
        *("llama4", "gemma3n"),  # chunked attention; shared keys and several residual streams
        *("qwen3_5", "diffusion_gemma"),  # linear attention and a recurrent state; no causal mask
        "chameleon",  # image tokens of a vocabulary
    }
)

FEW = frozenset({"llava", "qwen2_5_vl", "gemma3", "mllama", "llama4", "qwen3_5"})
"""The daily ones of tests that ask each family many questions: a cache of each kind."""


def daily(names: Iterable[str], asked: Container[str] = DAILY) -> list[ParameterSet]:
    """The names as parameters of a test, all but the daily ones marked slow."""
    return [pytest.param(name, marks=() if name in asked else pytest.mark.slow) for name in names]
