"""Two losses of the decoder beside the answers' words: where its states and its attention are meant to point."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fseg.worlds.training.turns import Asked


def likeness_loss(
    states: Float[Tensor, "batch position hidden"], turns: Asked, truth: Float[Tensor, "batch turn cell"], first: int
) -> Tensor:
    """Cross-entropy that trains cells of the class to a cosine to its name above 0.3 and all others below, with equal weights of both."""
    wide = states.float()
    cells = F.normalize(wide[:, first : first + truth.shape[-1]], dim=-1)
    spoken = wide[:, first + truth.shape[-1] :].unflatten(1, turns.ids.shape[1:])
    names = F.normalize(spoken.gather(2, turns.words[..., None].expand(-1, -1, -1, wide.shape[-1])), dim=-1)
    cosine = torch.einsum("btwh,bch->btwc", names, cells)
    target = truth[:, :, None].expand_as(cosine)
    loss = F.binary_cross_entropy_with_logits(12 * (cosine - 0.3), target, reduction="none")
    ours = (loss * target).sum(-1) / target.sum(-1).clamp(min=1)
    others = (loss * (1 - target)).sum(-1) / (1 - target).sum(-1).clamp(min=1)
    return ((ours + others) * turns.exists).sum() / turns.exists.sum()


def look_loss(rows: Float[Tensor, "batch head position cell"], turns: Asked, truth: Float[Tensor, "batch turn cell"]) -> Tensor:
    """Cross-entropy of the attention within the image to a uniform distribution over the cells of the thing described."""
    mean = rows.float().mean(1).unflatten(1, turns.ids.shape[1:])
    chance = mean / mean.sum(-1, keepdim=True).clamp(min=1e-6)
    wanted = truth / truth.sum(-1, keepdim=True).clamp(min=1e-6)
    entropy = -(wanted * wanted.clamp(min=1e-6).log()).sum(-1)  # subtracted, so that perfect attention has loss 0
    each = -torch.einsum("btlc,btc->btl", (chance + 1e-5).log(), wanted) - entropy[..., None]
    weight = turns.second * (turns.label > 0)[..., None]
    return (each * weight).sum() / weight.sum().clamp(min=1)
