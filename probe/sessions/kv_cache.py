"""Caches of a whole sequence: keys and values that are cheap to append to, and the recurrent states of blocks without keys."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)


class GrowingLayer(DynamicLayer):
    """Keys and values of one block with room behind them: new ones are written there, where a DynamicLayer copies all that it has.

    Args:
        source: the layer that this one extends; its tensors are never written to.
        capacity: tokens that are allocated whenever the buffer is full.
    """

    def __init__(self, source: CacheLayerMixin, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._last_keys: Tensor | None = None
        if source.keys is not None and source.values is not None:
            self.lazy_initialization(source.keys, source.values)
            self.hold(source.keys, source.values)

    def hold(self, keys: Float[Tensor, "row head token feature"], values: Float[Tensor, "row head token value"]) -> None:
        """Replace all keys and values by these; they are not written to."""
        self.keys, self.values = keys, values
        self._buffers = self._last_keys = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append keys and values (row, head, token, feature); return all of them, as views that later calls do not change."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states)
            return key_states, value_states
        before, after = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        # If the keys were replaced, by `hold` or by a method of the base class, the buffers no longer belong to them.
        if self._buffers is None or self.keys is not self._last_keys or after > self._buffers[0].shape[-2]:
            self._buffers = _copied(self.keys, after + self._capacity), _copied(self.values, after + self._capacity)
        keys, values = self._buffers
        keys[..., before:after, :], values[..., before:after, :] = key_states, value_states
        self.keys = self._last_keys = keys[..., :after, :]
        self.values = values[..., :after, :]
        return self.keys, self.values

    def repeat(self, rows: int) -> None:
        """Put the only row in place of so many; its tensors are not copied before the first token is appended."""
        if self.is_initialized:
            self.hold(self.keys.expand(rows, -1, -1, -1), self.values.expand(rows, -1, -1, -1))


def empty_cache(config: PretrainedConfig) -> DynamicCache:
    """A cache of the kind that a decoder's blocks need, which keeps the tokens outside of a sliding window, too."""
    cache = DynamicCache(config=config)
    cache.layers = [_without_window(layer) for layer in cache.layers]
    return cache


def _without_window(layer: CacheLayerMixin) -> CacheLayerMixin:
    if not isinstance(layer, DynamicSlidingWindowLayer):
        return layer
    return LinearAttentionAndFullAttentionLayer(layer.number_of_states) if isinstance(layer, LinearAttentionLayer) else DynamicLayer()


def forked(layer: CacheLayerMixin, capacity: int) -> CacheLayerMixin:
    """A layer that goes on from this one and leaves it as it is.

    Args:
        capacity: tokens that a layer of keys and values allocates at a time when it grows.
    """
    # A forward writes recurrent states in place; what has an indexer's keys, or states beside its keys, is rare.
    return GrowingLayer(layer, capacity) if type(layer) in (DynamicLayer, GrowingLayer) else copy.deepcopy(layer)


def only_keys(layers: Iterable[CacheLayerMixin]) -> bool:
    """Whether layers hold keys and values alone, among which a mask leaves out what is not to be seen."""
    return all(type(layer) in (DynamicLayer, GrowingLayer) or _is_empty(layer) for layer in layers)


def _is_empty(layer: CacheLayerMixin) -> bool:
    """Whether a layer holds nothing: its block reads the keys of another one, or has none."""
    return getattr(layer, "keys", None) is None and not isinstance(layer, LinearAttentionLayer)


def forked_rows(layers: Sequence[CacheLayerMixin], capacity: int) -> CacheLayerMixin:
    """A layer that goes on from these, each of one row, and leaves them as they are.

    Args:
        layers: one layer as often as it is to have rows, or several of keys and values alone. Shorter ones get zeros before theirs.
        capacity: see `forked`.
    """
    fork = forked(layers[0], capacity)
    if all(layer is layers[0] for layer in layers):
        _repeat_row(fork, len(layers))
    elif isinstance(fork, GrowingLayer) and fork.is_initialized:
        fork.hold(_as_rows([layer.keys for layer in layers]), _as_rows([layer.values for layer in layers]))
    return fork


def _as_rows(states: Sequence[Tensor]) -> Tensor:
    """States of one row each as rows of one tensor, those of fewer tokens behind zeros."""
    longest = max(one.shape[-2] for one in states)
    return torch.cat([one if one.shape[-2] == longest else pad(one, (0, 0, longest - one.shape[-2], 0)) for one in states])


def _repeat_row(layer: CacheLayerMixin, rows: int) -> None:
    """Put the only row of a layer in place of so many."""
    if rows == 1:
        return
    if isinstance(layer, GrowingLayer):
        layer.repeat(rows)
    else:
        layer.reorder_cache(torch.zeros(rows, dtype=torch.long))


def _copied(states: Tensor, capacity: int) -> Tensor:
    """A buffer for `capacity` tokens that begins with these states."""
    rows, heads, tokens, features = states.shape
    buffer = states.new_empty(rows, heads, capacity, features)
    buffer[:, :, :tokens] = states
    return buffer
