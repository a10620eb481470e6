"""A norm at one state, as the linear map that it is when its statistics are kept as they are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


class NotANorm(Exception):
    """A module is not a norm that scales, after subtracting the mean or not."""


@dataclass(frozen=True)
class FrozenNorm:
    """`gain * (state - mean) + bias`, or without the mean.

    Attributes:
        gain: of each feature: the norm's weight times the scale that it computed for the state.
        centred: whether the mean over the features is subtracted (LayerNorm), or not (RMSNorm).
        bias: 0 where the norm has none.
    """

    gain: Float[Tensor, "feature"]
    centred: bool
    bias: Float[Tensor, "feature"]

    def __call__(self, state: Float[Tensor, "feature"]) -> Float[Tensor, "feature"]:
        """The map."""
        return self.gain * (state - state.mean() if self.centred else state) + self.bias

    def transposed(self, direction: Float[Tensor, "feature"]) -> Float[Tensor, "feature"]:
        """The direction d with d @ state == direction @ (map(state) - bias)."""
        scaled = self.gain * direction.to(self.gain.device)
        return scaled - scaled.mean() if self.centred else scaled


def frozen_norm(norm: nn.Module, state: Float[Tensor, "feature"], normed: Float[Tensor, "feature"]) -> FrozenNorm:
    """The map of a norm at a state, found from what the norm does rather than from its kind.

    A vector of 1 and -1 in turn has mean 0 and length 1 a feature, so a norm of either kind multiplies it by its weight alone. The scale is
    then the one that fits the normed state.

    Args:
        normed: what the norm gave for the state.

    Raises:
        NotANorm: no such map gives the normed state.
    """
    signs = torch.ones_like(state)
    signs[1::2] = -1
    dtype = next((tensor.dtype for tensor in norm.parameters()), state.dtype)
    high, low = (norm((sign * signs)[None, None].to(dtype))[0, 0].float() for sign in (1, -1))
    weight, bias = signs * (high - low) / 2, (high + low) / 2
    for centred in (False, True):
        scaled = weight * (state - state.mean() if centred else state)
        scale = (scaled @ (normed - bias)) / (scaled @ scaled)
        found = FrozenNorm(weight * scale, centred, bias)
        if largest_gap(found(state), normed) <= tolerance(dtype):
            return found
    raise NotANorm


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may be apart, over the largest value: some hundred roundings."""
    return max(1e-4, 16 * torch.finfo(dtype).eps)


def largest_gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, over the largest value."""
    return float((ours.to(theirs.device) - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
