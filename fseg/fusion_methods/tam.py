"""Token activation map (Li et al., ICCV 2025): the class's logit at image tokens, less what its context explains, section 3.

Estimated causal inference, then the rank Gaussian filter. The paper explains each generated token; here it is the last piece of the class's
name. The context leaves out the name's own pieces, which the question has too: they would explain the whole map away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import probe
from fseg.evidence import Evidence
from fseg.fusion_methods.maps import rank_gaussian, share_of_peak
from fseg.fusion_methods.options import band
from fseg.fusion_methods.registry import fusion


def core(own: Float[Tensor, " cell"], context: Float[Tensor, "token cell"], relevance: Float[Tensor, " token"]) -> Float[Tensor, " cell"]:
    """relu(A - s I): I is the mean of the context's maps by relevance, s its least-squares scale to A."""
    tiny = torch.finfo(own.dtype).tiny
    interference = relevance / relevance.sum().clamp(min=tiny) @ context
    scale = (own @ interference) / (interference @ interference).clamp(min=tiny)
    return (own - scale * interference).relu()


# `layers` is used by the reads.
@fusion("tam", reads=lambda layers: [probe.Hidden(layers=band(layers), at=("image", "context"))])
def tam(e: Evidence, *, layers: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """The token activation map of the class's name, as a share of its peak.

    Args:
        layers: the band of `hidden_states` indices whose logits are averaged; the paper takes the last.
    """
    own = e.lens("image", "class", logits=True).mean(0)[:, -1].relu().cpu()  # at each cell, of the last piece
    context = e.lens("image", "context", logits=True).mean(0).relu().T.cpu()  # of each token of the context, at each cell
    relevance = e.lens("context", "class", logits=True).mean(0)[:, -1].relu().cpu()  # at each token of the context, of the last piece
    return share_of_peak(rank_gaussian(e.fold(core(own, context, relevance))))
