"""Which of the families the daily tests ask: of each kind one. The slow tests ask all."""

from __future__ import annotations

from collections.abc import Container, Iterable

import pytest
from _pytest.mark import ParameterSet

DAILY = frozenset(
    {
        *("llava", "llava_next", "llava_onevision", "video_llava"),  # a square; tiles; tiles with row ends, and videos
        *("qwen2_5_vl", "qwen3_vl"),  # any size and three-part positions: windows; states added in the decoder
        *("internvl", "idefics3"),  # tiles with marks between them
        "gemma3",  # image tokens attend to later ones
        *("mllama", "instructblip", "blip", "florence2"),  # cross-attention, queries, encoder and decoder
        *("llama4", "gemma3n"),  # chunked attention; shared keys and several residual streams
        *("qwen3_5", "diffusion_gemma"),  # linear attention and a recurrent state; no causal mask
        "chameleon",  # image tokens of a vocabulary
    }
)


def daily(names: Iterable[str], asked: Container[str] = DAILY) -> list[ParameterSet]:
    """The names as parameters of a test, all but the daily ones marked slow."""
    return [pytest.param(name, marks=() if name in asked else pytest.mark.slow) for name in names]
