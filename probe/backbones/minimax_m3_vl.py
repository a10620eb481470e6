"""MiniMax M3 VL: an indexer chooses blocks of keys."""

from __future__ import annotations

from probe.backbones.registry import register
from probe.backbones.shared.native_resolution import MergedPatches


@register("minimax_m3_vl")
class MiniMaxM3VL(MergedPatches):
    """Blocks begin at every so many keys of the cache."""

    counts_cached = True
