"""A key-value cache that is cheap to append to."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer


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


def _copied(states: Tensor, capacity: int) -> Tensor:
    """A buffer for `capacity` tokens that begins with these states."""
    rows, heads, tokens, features = states.shape
    buffer = states.new_empty(rows, heads, capacity, features)
    buffer[:, :, :tokens] = states
    return buffer
