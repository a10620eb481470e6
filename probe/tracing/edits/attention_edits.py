"""Edits of attention: blocked keys through the mask, other weights through the attention call's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from probe.errors import InvalidEdit
from probe.tracing.attention import AttentionCall, RunningAttention
from probe.tracing.edits.kinds import Edit
from probe.tracing.edits.operands import BroadcastOperand, select
from probe.tracing.edits.state_edits import changed_values, key_indices
from probe.tracing.modules import Modules
from probe.tracing.resolving import Indices, RowIndices
from probe.tracing.sites import Step, attention_site
from probe.tracing.slots import SequenceSlot


@dataclass(frozen=True)
class BlockEdit:
    """Blocked keys of some queries in one decoder block.

    Attributes:
        queries, keys: for each sequence the positions.
        heads: the heads that are edited; None: all.
    """

    edit: Edit
    modules: Modules
    block: int
    queries: RowIndices
    keys: RowIndices
    heads: Indices | None

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""

        def act(value: object) -> None:
            running = cast(RunningAttention, value)
            call = running.interface_call
            rows = [_indices(slot, q, k, call, self.edit) for slot, q, k in zip(slots, self.queries, self.keys, strict=True)]
            pairs = [
                (slot.row, _second(queries), _second(keys)) for slot, (queries, keys) in zip(slots, rows, strict=True) if queries and keys
            ]
            if pairs:
                running.call = replace(call, mask=self._mask(call, pairs))

        return Step(attention_site(self.modules, self.block), act, edits=True)

    def _mask(self, call: AttentionCall, pairs: Sequence[tuple[int, list[int], list[int]]]) -> Tensor:
        """The call's mask without the blocked pairs: (batch, head or 1, query, key)."""
        batch, heads = call.query.shape[0], call.query.shape[1]
        mask = explicit_mask(call)
        mask = mask.expand(batch, mask.shape[1] if self.heads is None else heads, -1, -1).clone()
        blocked: bool | float = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        for row, queries, keys in pairs:
            chosen = torch.arange(mask.shape[1]) if self.heads is None else torch.tensor(self.heads)
            mask[row, chosen[:, None, None], torch.tensor(queries)[:, None], torch.tensor(keys)] = blocked
            left = mask[row][chosen][:, queries]
            open_keys = left if mask.dtype == torch.bool else left > torch.finfo(mask.dtype).min / 2
            if not bool(open_keys.any(-1).all()):
                raise InvalidEdit(f"{self.edit!r} leaves a query in block {self.block} no key to attend to. Leave one key out.")
        return mask


@dataclass(frozen=True)
class AttentionEdit:
    """Edited attention weights of some queries in one decoder block; the output becomes weights @ values."""

    edit: Edit
    number: int
    operand: BroadcastOperand | None
    modules: Modules
    block: int
    queries: RowIndices
    keys: RowIndices
    heads: Indices | None

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""

        def act(value: object) -> None:
            for row, slot in enumerate(slots):
                self._edit_row(cast(RunningAttention, value), row, slot)

        return Step(attention_site(self.modules, self.block), act, edits=True)

    def _edit_row(self, running: RunningAttention, row: int, slot: SequenceSlot) -> None:
        call = running.interface_call
        query_pairs, key_pairs = _indices(slot, self.queries[row], self.keys[row], call, self.edit)
        if not query_pairs or not key_pairs:
            return
        queries, keys = _second(query_pairs), _second(key_pairs)
        weights = call.rows(slot.row, torch.tensor(queries, dtype=torch.long, device=call.device))
        weights = running.with_edited_rows(slot.row, queries, weights).clone()
        heads = list(range(len(weights))) if self.heads is None else list(self.heads)
        operand = None if self.operand is None else self.operand.at(self.number, row)
        if operand is not None:
            operand = select(select(operand, -2, [number for number, _ in query_pairs]), -1, [number for number, _ in key_pairs])
        at = torch.tensor(keys, dtype=torch.long, device=weights.device)
        edited = weights[heads]
        edited[..., at] = changed_values(self.edit, edited[..., at], operand)
        weights[heads] = edited
        for number, query in enumerate(queries):
            running.replace_rows(slot.row, query, heads, weights[:, number])


def explicit_mask(call: AttentionCall) -> Tensor:
    """The mask (batch or 1, head or 1, query, key) that a call means; boolean (True: attend) where it has none.

    Raises:
        InvalidEdit: the kernel takes no mask of queries and keys.
    """
    if call.mask is not None:
        if call.mask.ndim != 4:
            raise InvalidEdit(
                f"{call.module_path} runs a kernel without a mask of queries and keys, so no key can be blocked. Load the model with "
                "attn_implementation='sdpa' or 'eager'."
            )
        return call.mask
    queries, keys = call.shape
    positions = torch.arange(queries, device=call.device)[:, None] + (keys - queries)
    others = torch.arange(keys, device=call.device)[None]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=call.device)
    if call.is_causal and queries > 1:
        allowed = others <= positions
        if call.window is not None:
            allowed = allowed & (others > positions - call.window)
    return allowed[None, None]


_Pairs = list[tuple[int, int]]
"""(number of a position, its index on the axis)."""


def _indices(slot: SequenceSlot, queries: Indices, keys: Indices, call: AttentionCall, edit: Edit) -> tuple[_Pairs, _Pairs]:
    """The query-axis and key-axis indices of positions, as far as they are in this forward."""
    rows, width = call.shape
    if width != rows and slot.shared == 0:
        raise InvalidEdit(
            f"{edit!r}: {call.module_path} attends to {width} keys of its own, not to the sequence. Name blocks of self-attention."
        )
    tokens = [(number, index) for number, position in enumerate(queries) for index in slot.tokens([position]) if 0 <= index < rows]
    return tokens, key_indices(slot, keys, call)


def _second(pairs: _Pairs) -> list[int]:
    return [index for _, index in pairs]
