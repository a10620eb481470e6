"""Relative attention (Zhang et al., ICLR 2025, "MLLMs know where to look", section 4): a question's attention over a generic one's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import probe
from fseg.checks import check_text
from fseg.evidence import Evidence
from fseg.fusion_methods.maps import share_of_peak
from fseg.fusion_methods.options import blocks
from fseg.fusion_methods.registry import fusion

GENERIC = "Write a general description of the image."


def core(asked: Float[Tensor, " cell"], generic: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """A_rel = A(image, question) / A(image, generic question)."""
    return asked / generic.clamp(min=torch.finfo(generic.dtype).tiny)


def _reads(layers: Sequence[float], generic: str) -> list[probe.Read]:
    check_text("generic", generic)
    return [probe.Attention(layers=blocks(layers), query="before answer", key="image", heads="mean")]


# `layers` is used by the reads.
@fusion("relative", reads=_reads, questions=lambda generic, **_: (generic,))
def relative(e: Evidence, *, layers: Sequence[float] = (0.47, 0.47), generic: str = GENERIC) -> Tensor:
    """Attention of the last token of the prompt to the image, divided by that of a generic question, as a share of its peak.

    Args:
        layers: the band of `hidden_states` indices whose blocks attend, averaged; the paper's single block 14 of LLaVA-1.5's 32 is index 15.
        generic: the other question.
    """
    asked, general = (one.attention_rows("before answer", "image").mean((0, 1)) for one in (e, e.of_question(generic)))
    return share_of_peak(e.fold(core(asked, general)))
