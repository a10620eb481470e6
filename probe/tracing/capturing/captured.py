"""The tensors that a forward captured, and how those of some positions are selected from a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from probe.tokens.equality import equal_fields
from probe.tracing.reads import Module, Position
from probe.tracing.resolving import AttentionSelection, RowIndices
from probe.tracing.sites import StateAddress
from probe.tracing.slots import SequenceSlot, as_indices


@dataclass(eq=False)
class Captured:
    """The tensors that one forward captured, sequence by sequence. Two are equal if all tensors are.

    Attributes:
        states: (address, position) -> for each sequence (token, feature), or (head, token, feature) of the heads that were read.
        attention: (block, selection) -> for each sequence (head, query, key), float32; without `head` where heads are averaged.
        vision: layer -> (image or tile, token, feature), class tokens included.
        vision_attention: (tower block, selection) -> (image or tile, head, query, key), float32.
        modules: read -> the tensor, or for a read with positions a tensor for each sequence.
        logits: position -> for each sequence (token, vocabulary).
        row_differences: attention block -> difference of rows @ values from the call's own output, at first use.
    """

    states: dict[tuple[StateAddress, Position | None], list[Tensor]] = field(default_factory=dict)
    attention: dict[tuple[int, AttentionSelection], list[Tensor]] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)
    vision_attention: dict[tuple[int, AttentionSelection], Tensor] = field(default_factory=dict)
    modules: dict[Module, list[Tensor]] = field(default_factory=dict)
    logits: dict[Position | None, list[Tensor]] = field(default_factory=dict)
    row_differences: dict[int, float] = field(default_factory=dict, compare=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Captured):
            return NotImplemented
        return equal_fields(self, other)

    __hash__ = None  # type: ignore[assignment]


Places = slice | Tensor
"""Indices of the token axis: a slice if they are consecutive, which is copied faster."""


def places_of(rows: RowIndices, slots: Sequence[SequenceSlot], device: torch.device, *, by_key: bool = False) -> list[tuple[int, Places]]:
    """For each sequence its row of the batch, and where on the token axis its positions are.

    Args:
        by_key: whether the token axis has the sequence's keys, the cached ones included.
    """
    indices = [slot.keys(positions) if by_key else slot.tokens(positions) for slot, positions in zip(slots, rows, strict=True)]
    return [(slot.row, _places(of_slot, device)) for slot, of_slot in zip(slots, indices, strict=True)]


def select(states: Tensor, places: Sequence[tuple[int, Places]]) -> list[Tensor]:
    """For each sequence the states at its places: (token, ...).

    They are copies: a view of a few positions would keep the whole tensor alive.

    Args:
        states: (batch, token, ...).
        places: see `places_of`.
    """
    return [
        states[row, at].clone(memory_format=torch.contiguous_format) if isinstance(at, slice) else states[row].index_select(0, at)
        for row, at in places
    ]


def select_positions(states: Tensor, rows: RowIndices, slots: Sequence[SequenceSlot]) -> list[Tensor]:
    """For each sequence copies of the states at its positions: (token, ...).

    Args:
        states: (batch, token, ...).
    """
    return select(states, places_of(rows, slots, states.device))


def select_logits(logits: Tensor, rows: RowIndices, slots: Sequence[SequenceSlot], computed: Sequence[int] | None) -> list[Tensor]:
    """For each sequence the logits at its positions: (token, vocabulary).

    Args:
        logits: (batch, token, vocabulary).
        computed: the token-axis indices whose logits were asked for; None: all. Some forwards compute all of them nevertheless.
    """
    if computed is None or logits.shape[1] > len(computed):
        return select_positions(logits, rows, slots)
    number = {index: place for place, index in enumerate(computed)}
    indices = [[number[index] for index in slot.tokens(positions)] for slot, positions in zip(slots, rows, strict=True)]
    return select(logits, [(slot.row, _places(row, logits.device)) for slot, row in zip(slots, indices, strict=True)])


def _places(indices: Sequence[int], device: torch.device) -> Places:
    if indices and all(after == before + 1 for before, after in pairwise(indices)):
        return slice(indices[0], indices[-1] + 1)
    return as_indices(indices, device)
