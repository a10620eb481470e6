"""A key-value cache that is cheap to append to."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values of one block with room behind them: new ones are written there, where a DynamicLayer copies all that it has.

    Args:
        begun: the layer that this one goes on from; its tensors are never written to.
        room: how many tokens to make room for whenever there is none left.
    """

    def __init__(self, begun: CacheLayerMixin, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._shown: Tensor | None = None
        if begun.keys is not None and begun.values is not None:
            self.lazy_initialization(begun.keys, begun.values)
            self.hold(begun.keys, begun.values)

    def hold(self, keys: Float[Tensor, "row head token feature"], values: Float[Tensor, "row head token feature"]) -> None:
        """Go on from these instead; they are not written to."""
        self.keys, self.values = keys, values
        self._buffers = self._shown = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append keys and values (row, head, token, feature); all of them are returned, as views that later calls leave as they are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states)
            return key_states, value_states
        before, after = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        # Whoever put other keys here, this class or one of its parents' methods: the buffers are not theirs.
        if self._buffers is None or self.keys is not self._shown or after > self._buffers[0].shape[-2]:
            self._buffers = _copied(self.keys, after + self._room), _copied(self.values, after + self._room)
        keys, values = self._buffers
        keys[..., before:after, :], values[..., before:after, :] = key_states, value_states
        self.keys = self._shown = keys[..., :after, :]
        self.values = values[..., :after, :]
        return self.keys, self.values


def _copied(states: Tensor, capacity: int) -> Tensor:
    """A buffer for that many tokens that begins with these."""
    rows, heads, tokens, features = states.shape
    buffer = states.new_empty(rows, heads, capacity, features)
    buffer[:, :, :tokens] = states
    return buffer
