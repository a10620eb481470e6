"""Prefix: the common beginning of a session's prompts, and its KV cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import CacheLayerMixin

from probe.inputs.encoding import Encoding
from probe.sessions.kv_cache import forked_rows
from probe.tokens.spans import TokenMap
from probe.tracing.edits import EditPlan
from probe.tracing.hooks import ModelState
from probe.tracing.resolving import Indices
from probe.tracing.sites import StateAddress


@dataclass(frozen=True, eq=False)
class Prefix:
    """The common prefix of a session's prompts, which has their images, and its KV cache.

    Attributes:
        tokens: its positions.
        inputs: the forward's inputs.
        cache: keys and values, or recurrent states, of every block. Never passed to the model again: a forward appends to the cache that it gets.
        position: the rotary position of the next token.
        model_state: the state of the model that ran it, see `ModelState`.
        edits: that were in force.
        states: (address, positions) -> states (token, feature) or (head, token, feature) that were read in it.
        vision: layer -> vision states that were read.
    """

    tokens: TokenMap
    inputs: Mapping[str, Tensor]
    cache: DynamicCache
    position: int
    model_state: ModelState
    edits: EditPlan = field(default_factory=EditPlan)
    states: dict[tuple[StateAddress, Indices], Tensor] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def shapes(self) -> tuple[int | tuple[int, ...] | None, ...]:
        """What prefixes have in common whose caches can be rows of one: heads and features of the keys of each block; None: it has none.

        Where blocks have keys of something else than its tokens, its length, too, and the numbers of these.
        """
        keys = [getattr(layer, "keys", None) for layer in self.cache.layers]
        own = all(one is None or one.shape[-2] == len(self) for one in keys)
        shapes = [None if one is None else (one.shape[1], one.shape[-1]) if own else tuple(one.shape) for one in keys]
        return (None if own else len(self), *shapes)

    def with_images_of(self, encoding: Encoding) -> Prefix:
        """The same prefix with the image tensors of a prompt that has the same images."""
        images = {name: value for name, value in encoding.inputs.items() if name not in encoding.token_inputs}
        return replace(self, inputs={**self.inputs, **images})

    def begins(self, encoding: Encoding) -> bool:
        """Whether a prompt starts with this prefix: the same tokens, and the very same images."""
        same = encoding.tokens.ids[: len(self)] == self.tokens.ids and len(encoding.tokens) > len(self)
        return same and all(encoding.inputs.get(name) is value for name, value in self.inputs.items() if name not in encoding.token_inputs)


def fork(prefixes: Sequence[Prefix], capacity: int) -> tuple[DynamicCache, list[CacheLayerMixin]]:
    """A cache that can be appended to, with a row for each of these prefixes, and its layers. The prefixes' own tensors are not changed.

    Args:
        capacity: tokens that each layer allocates at a time when it grows.
    """
    cache = copy.copy(prefixes[0].cache)
    cache.layers = [forked_rows(layers, capacity) for layers in zip(*(prefix.cache.layers for prefix in prefixes), strict=True)]
    return cache, cache.layers


def max_rope_length(config: PretrainedConfig) -> float:
    """The largest sequence length that does not change the rotary frequencies: those of a prefix were chosen by its own length."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return float("inf")
    return float(rope.get("original_max_position_embeddings") or text.max_position_embeddings)
