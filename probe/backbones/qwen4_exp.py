"""Qwen 4 (experimental): residual streams side by side in the features, over merged patches."""

from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import MergedPatches
from probe.backbones.shared.residual_streams import ResidualStreams


@register("qwen4_exp")
class Qwen4Exp(ResidualStreams, MergedPatches):
    """Blocks of linear attention among those of attention."""
