"""Muse Spark: a learned gate for each feature between the residual stream and what a block adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from probe.backbones.base import Factor
from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import NativeResolution

if TYPE_CHECKING:
    from torch import nn


@register("muse_spark")
class MuseSpark(NativeResolution):
    """Its gates weigh what a block adds."""

    def residual_factors(self, block: nn.Module) -> tuple[Factor, Factor, Factor]:
        kept, added = _gate(block.get_submodule("post_attention_residual_gate"))
        kept_later, added_later = _gate(block.get_submodule("post_feedforward_residual_gate"))
        return kept_later * added, added_later, kept_later * kept


def _gate(gate: nn.Module) -> tuple[Tensor, Tensor]:
    """What a gate multiplies the residual stream by, and what is added to it: as in its forward."""
    weights = cast(Tensor, gate.gate) / cast(float, gate.temperature)
    added = torch.sigmoid(weights)
    kept = torch.sqrt(torch.clamp(torch.sigmoid(-weights) * (1.0 + added), min=cast(float, gate.eps)))
    return kept.detach(), added.detach()
