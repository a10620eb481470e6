"""Masks: which masks a decoder's layers take, and how far back each lets a token see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PretrainedConfig

FULL = "full_attention"
_KINDS = {
    FULL: (FULL,),
    "indexed_attention": ("indexed_attention",),
    "sliding_attention": ("sliding_attention",),
    "chunked_attention": ("chunked_attention",),
    "linear_attention": ("linear_attention",),
    "conv": ("conv",),
    "minimax_m3_sparse": (FULL,),
    "moe": (),
    "mlp": (),
    "hybrid": (FULL, "linear_attention"),
    "hybrid_sliding": ("sliding_attention", "linear_attention"),
}
"""Kind of layer, as `layer_types` has it -> the masks that it takes."""
RECURRENT = frozenset({"linear_attention", "conv"})


@dataclass(frozen=True)
class Reach:
    """How far back a layer's queries see.

    Attributes:
        window: less than so many tokens; None: all.
        chunk: within their own chunk of so many tokens; None: across all.
    """

    window: int | None = None
    chunk: int | None = None

    def seen(self, query: Int[Tensor, "row token"], key: Int[Tensor, "row key"]) -> Bool[Tensor, "row token key"]:
        """Which earlier keys each query sees, both by their index in the whole sequence."""
        later, earlier = query[:, :, None], key[:, None, :]
        seen = torch.ones_like(later >= earlier)
        if self.window is not None:
            seen = later - earlier < self.window
        if self.chunk is not None:
            seen = seen & (later // self.chunk == earlier // self.chunk)
        return seen


def layer_kinds(config: PretrainedConfig) -> tuple[str, ...]:
    """The kinds of a decoder's layers, each once; those without a mask that probe knows included."""
    return tuple(dict.fromkeys(getattr(config.get_text_config(decoder=True), "layer_types", None) or ()))


def unknown_kinds(config: PretrainedConfig) -> list[str]:
    """The kinds of layers that probe cannot build a mask for."""
    return sorted(set(layer_kinds(config)) - set(_KINDS))


def is_recurrent(config: PretrainedConfig) -> bool:
    """Whether blocks of the decoder hold a state that each token changes."""
    return any(RECURRENT & set(_KINDS.get(kind, ())) for kind in layer_kinds(config))


def mask_reaches(config: PretrainedConfig) -> dict[str, Reach | None]:
    """Mask -> how far its layers see; None: these take no mask. Several entries only where the model takes a mask for each kind."""
    text = config.get_text_config(decoder=True)
    kinds = layer_kinds(config)
    masks = dict.fromkeys([FULL, *(mask for kind in kinds for mask in _KINDS[kind])])
    window, chunk = getattr(text, "sliding_window", None), getattr(text, "attention_chunk_size", None)
    if not {"sliding_attention", "chunked_attention"} & set(masks):
        return {FULL: Reach(None if kinds else window)}
    reaches = {"sliding_attention": Reach(window=window), "chunked_attention": Reach(chunk=chunk)}
    return {mask: None if mask in RECURRENT else reaches.get(mask, Reach()) for mask in masks}
