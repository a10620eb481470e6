"""SequenceSlot: where a sequence is in the tensors of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceSlot:
    """Where one sequence is in the tensors of a forward.

    Attributes:
        row: index in the batch.
        start: index of the sequence's first new token on the token axis.
        shared: length of its prefix that is already in the KV cache. Prefix positions are the first keys behind `padding`, and have no
            states here.
        passed: how many tokens after the prefix earlier passes have run: they have keys, and no states here.
        own_keys: key-axis indices of the positions after the prefix, where these are not consecutive from `start` on.
        padding: how many keys are before the prefix, which is shorter than that of another row.
    """

    row: int
    start: int = 0
    shared: int = 0
    passed: int = 0
    own_keys: tuple[int, ...] | None = None
    padding: int = 0

    def tokens(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Token-axis indices of the positions that are in this pass."""
        return self.numbered_tokens(positions)[1]

    def numbered_tokens(self, positions: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the positions whose states are computed in this pass: their places among the given ones, and their token-axis indices."""
        return _numbered(self.shared + self.passed, self.start - self.shared, tuple(positions))

    def keys(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Key-axis indices of the positions."""
        return _keys(self, tuple(positions))


@lru_cache(maxsize=256)  # every block of a forward asks for the same positions
def _numbered(first: int, offset: int, positions: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    numbers = tuple(number for number, position in enumerate(positions) if position >= first)
    return numbers, tuple(positions[number] + offset for number in numbers)


@lru_cache(maxsize=256)  # likewise
def _keys(slot: SequenceSlot, positions: tuple[int, ...]) -> tuple[int, ...]:
    shared, padding, own = slot.shared, slot.padding, slot.own_keys
    if own is None:
        return tuple(padding + position if position < shared else padding + slot.start + position for position in positions)
    return tuple(padding + position if position < shared else own[position - shared] for position in positions)


def as_indices(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices as an int64 tensor on a device. It may be shared: do not write to it."""
    return _index_tensor(tuple(indices), device)


@lru_cache(maxsize=64)  # every block of a forward selects the same positions
def _index_tensor(indices: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not be saved for a later backward
        return torch.tensor(indices, dtype=torch.long, device=device)


def batch_rows(slots: Sequence[SequenceSlot]) -> int:
    """How many rows a batch has whose sequences are in these slots."""
    return 1 + max((slot.row for slot in slots), default=0)
