"""The logit lens at image tokens (Jiang et al., ICLR 2025, section 4): how probable each image token makes the class's name."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

import probe
from fseg.evidence import Evidence
from fseg.fusion_methods.maps import share_of_peak
from fseg.fusion_methods.options import band
from fseg.fusion_methods.registry import fusion


def core(log_probabilities: Float[Tensor, "layer cell piece"]) -> Float[Tensor, " cell"]:
    """The largest probability of any piece of the name at any layer: the paper's internal confidence."""
    return log_probabilities.exp().amax(dim=(0, 2))


# `layers` is used by the reads.
@fusion("lens", reads=lambda layers: [probe.Hidden(layers=band(layers), at="image")])
def lens(e: Evidence, *, layers: Sequence[float] = (0.0, 1.0)) -> Tensor:
    """The probability of the class's name at each image token, as a share of its peak.

    Args:
        layers: the band of `hidden_states` indices, both ends included; the paper takes all. In families of several residual streams only the
            last has a lens.
    """
    return share_of_peak(e.fold(core(e.lens("image", "class"))))
