"""Batched: each sequence in a row of its own, after a copy of the prefix."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from probe.runtime import Runtime
from probe.sessions.continuations import Continuations, PackedInputs
from probe.sessions.kv_cache import only_keys, repeat_row
from probe.sessions.prefix import Prefix
from probe.tracing.slots import SequenceSlot


class Batched(Continuations):
    """Each sequence in a row of its own, after a copy of the prefix; shorter ones are padded on the right."""

    policy = "batched"

    @property
    def padded(self) -> bool:
        """Recurrent states take in padding, and some forwards place a token by how many the cache has."""
        return not self._runtime.backbone.counts_cached and only_keys(self._layers)

    @property
    def can_drop(self) -> bool:
        """See `Continuations.can_drop`."""
        return self.padded

    @staticmethod
    def _growth(count: int) -> int:
        return 1

    def __init__(self, runtime: Runtime, prefix: Prefix, count: int, steps: int = 0) -> None:
        super().__init__(runtime, prefix, count, steps)
        for layer in self._layers:
            repeat_row(layer, count)
        # For each row and key: whether it is a token or padding, and its index in the sequence.
        self._real = torch.ones(count, len(prefix), dtype=torch.bool, device=runtime.model.device)
        self._index = self._tensor(range(-len(prefix), 0)).expand(count, -1)
        self._new: list[int] = []  # tokens of each sequence in the last pass

    def next_inputs(self, tokens: Sequence[Sequence[int]], *, with_keys: bool = False) -> PackedInputs:
        """See `Continuations.next_inputs`."""
        width = max(map(len, tokens))
        ids = self._tensor([[*new, *[0] * (width - len(new))] for new in tokens])
        # Padding sees what the last token sees: attention over no key at all would be NaN.
        index = self._tensor(
            [[length + min(i, len(new) - 1) for i in range(width)] for length, new in zip(self._lengths, tokens, strict=True)]
        )
        real = self._tensor(range(width))[None] < self._tensor([len(new) for new in tokens])[:, None]
        before, self._new = list(self._lengths), list(map(len, tokens))
        self._real, self._index = torch.cat([self._real, real], 1), torch.cat([self._index, index], 1)
        self._lengths = [length + len(new) for length, new in zip(self._lengths, tokens, strict=True)]
        visible = self._visible(self._real[:, None].expand(-1, width, -1), index, self._index)
        last = tuple((row, len(new) - 1) for row, new in enumerate(tokens))
        slots = tuple(
            SequenceSlot(row, -length, len(self._prefix), length, self._keys_of(row) if length and with_keys else None)
            for row, length in enumerate(before)
        )
        return PackedInputs(self._inputs(ids, index, visible), slots, last)

    def drop_last(self, counts: Sequence[int]) -> None:
        """See `Continuations.drop_last`."""
        first = self._real.shape[1] - max(self._new)
        dropped = [
            (row, first + new - 1 - number)
            for row, (new, count) in enumerate(zip(self._new, counts, strict=True))
            for number in range(count)
        ]
        rows, cols = self._tensor(dropped).T
        self._real[rows, cols] = False
        self._lengths = [length - count for length, count in zip(self._lengths, counts, strict=True)]

    def _keys_of(self, row: int) -> tuple[int, ...]:
        """The key-axis indices of a row's own tokens, in order."""
        return tuple(index for index in self._real[row].nonzero().flatten().tolist() if index >= len(self._prefix))

    def select_sequences(self, kept: Sequence[int]) -> None:
        """See `Continuations.select_sequences`."""
        if list(kept) == list(range(len(self._lengths))):
            return
        rows = self._tensor(kept)
        for layer in self._layers:
            layer.reorder_cache(rows)
        self._real, self._index = self._real[rows], self._index[rows]
        self._lengths = [self._lengths[row] for row in kept]
