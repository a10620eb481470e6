"""Packed: all sequences in one row after one prefix, separated by a mask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from probe.runtime import Runtime
from probe.sessions.continuations import Continuations, PackedInputs
from probe.sessions.kv_cache import GrowingLayer, only_keys
from probe.sessions.prefix import Prefix
from probe.tracing.slots import SequenceSlot

_PREFIX, _DROPPED = -1, -2  # in place of a sequence's number


class Packed(Continuations):
    """All sequences in one row after one prefix; a mask lets each token see the prefix and its own sequence."""

    policy = "packed"

    @staticmethod
    def _growth(count: int) -> int:
        return count

    def __init__(self, runtime: Runtime, prefix: Prefix, count: int, steps: int = 0) -> None:
        super().__init__(runtime, prefix, count, steps)
        # For each key in the cache: the sequence that it belongs to, and its index there.
        self._owner = self._tensor([_PREFIX] * len(prefix))
        self._index = self._tensor(range(-len(prefix), 0))
        self._new: list[int] = []  # tokens of each sequence in the last pass

    def next_inputs(self, tokens: Sequence[Sequence[int]], *, with_keys: bool = False) -> PackedInputs:
        """See `Continuations.next_inputs`."""
        starts = [0]
        for new in tokens:
            starts.append(starts[-1] + len(new))
        owner = self._tensor([sequence for sequence, new in enumerate(tokens) for _ in new])
        index = self._tensor([length + i for length, new in zip(self._lengths, tokens, strict=True) for i in range(len(new))])
        before, self._new = list(self._lengths), list(map(len, tokens))
        self._owner, self._index = torch.cat([self._owner, owner]), torch.cat([self._index, index])
        self._lengths = [length + len(new) for length, new in zip(self._lengths, tokens, strict=True)]
        own = (self._owner[None] == owner[:, None]) | (self._owner == _PREFIX)[None]
        visible = self._visible(own[None], index[None], self._index[None])
        ids = self._tensor([token for new in tokens for token in new])
        last = tuple((0, stop - 1) for stop in starts[1:])
        slots = tuple(
            SequenceSlot(0, start - length, len(self._prefix), length, self._keys_of(number) if length and with_keys else None)
            for number, (start, length) in enumerate(zip(starts, before, strict=False))
        )
        return PackedInputs(self._inputs(ids[None], index[None], visible), slots, last)

    def drop_last(self, counts: Sequence[int]) -> None:
        """See `Continuations.drop_last`."""
        ends = list(accumulate(self._new, initial=len(self._owner) - sum(self._new)))[1:]
        dropped = [end - 1 - number for end, count in zip(ends, counts, strict=True) for number in range(count)]
        self._owner[self._tensor(dropped)] = _DROPPED
        self._lengths = [length - count for length, count in zip(self._lengths, counts, strict=True)]

    def _keys_of(self, sequence: int) -> tuple[int, ...]:
        """The key-axis indices of a sequence's own tokens, in order."""
        return tuple((self._owner == sequence).nonzero().flatten().tolist())

    def select_sequences(self, kept: Sequence[int]) -> None:
        """See `Continuations.select_sequences`."""
        # The last two entries are those of _DROPPED and _PREFIX.
        renumbered = torch.full((len(self._lengths) + 2,), _DROPPED, device=self._owner.device)
        renumbered[self._tensor(kept)] = self._tensor(range(len(kept)))
        renumbered[_PREFIX] = _PREFIX
        self._owner = renumbered[self._owner]
        self._lengths = [self._lengths[sequence] for sequence in kept]
        if 2 * sum(self._lengths) > len(self._owner) - len(self._prefix):
            return  # moving the keys costs more than masking the dropped ones
        if not only_keys(self._layers):
            return  # an indexer has keys of its own
        alive = (self._owner != _DROPPED).nonzero().flatten()
        for layer in (layer for layer in self._layers if isinstance(layer, GrowingLayer)):
            indices = alive.to(layer.keys.device)  # a model may lie on several devices
            layer.hold(layer.keys[:, :, indices], layer.values[:, :, indices])
        self._owner, self._index = self._owner[alive], self._index[alive]
