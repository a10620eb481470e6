"""Edits of states: of hidden states and parts of a block, of the vision tower, and of any module's tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from probe.errors import InvalidEdit
from probe.tracing.attention import AttentionCall, RunningAttention, first_tensor, with_first_tensor
from probe.tracing.capturing.vision_layout import VisionLayout
from probe.tracing.edits.kinds import Edit
from probe.tracing.edits.operands import BroadcastOperand, select
from probe.tracing.modules import Modules
from probe.tracing.reads import Module
from probe.tracing.resolving import Indices, RowIndices
from probe.tracing.sites import StateSite, Step, module_site, token_states, tower_site
from probe.tracing.slots import SequenceSlot, as_indices, batch_rows

Places = tuple[Indices, Indices]
"""Positions of a sequence that are in a forward: their places among those of the edit, and their indices on the tensor's axis."""


@dataclass(frozen=True)
class StateEdit:
    """An edit of states at one site.

    Attributes:
        number: of its layer, among those of the read.
        operand: the edit's, broadcast; None: it needs none.
        adapter: the site, and how its value is seen.
        rows: for each sequence the positions that are edited.
        heads: the heads that are edited; None: all, or states without heads.
    """

    edit: Edit
    number: int
    operand: BroadcastOperand | None
    adapter: StateSite
    rows: RowIndices
    heads: Indices | None

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""

        def act(value: object) -> object:
            states = self.adapter.view(value, batch_rows(slots))
            places = [self._places(value, states.shape[1], row, slot) for row, slot in enumerate(slots)]
            if self.adapter.by_key and len(slots) > 1:
                places = _once(places, slots)
            if not any(indices for _, indices in places):
                return None
            states = states.clone()
            for row, (slot, (numbers, indices)) in enumerate(zip(slots, places, strict=True)):
                if indices:
                    self._edit_row(states, row, slot, numbers, indices)
            return self.adapter.replaced(value, states)

        return Step(self.adapter.site, act, edits=True)

    def _places(self, value: object, length: int, row: int, slot: SequenceSlot) -> Places:
        """The positions of one sequence that are in this forward."""
        positions = self.rows[row]
        if self.adapter.by_key:
            call = cast(RunningAttention, value).interface_call
            if call.shape[1] != call.shape[0] and not slot.shared:
                raise InvalidEdit(f"{self.edit!r}: {call.module_path} attends to {call.shape[1]} keys of its own, not to the sequence.")
            return _split(key_indices(slot, positions, call))
        numbers, indices = slot.numbered_tokens(positions)
        if max(indices, default=-1) < length:
            return numbers, indices
        # A pass over the prefix alone has no tokens behind it.
        return _split([(number, index) for number, index in zip(numbers, indices, strict=True) if index < length])

    def _edit_row(self, states: Tensor, row: int, slot: SequenceSlot, here: Indices, indices: Indices) -> None:
        """Edit the states of one sequence in place."""
        at = as_indices(indices, states.device)
        values = states[slot.row].index_select(0, at)
        if values.ndim == 2:
            states[slot.row, at] = changed_values(self.edit, values, _tokens(self.operand, self.number, row, -2, here))
            return
        by_head = values.transpose(0, 1)
        heads = list(range(len(by_head))) if self.heads is None else list(self.heads)
        if max(heads) >= len(by_head):
            raise InvalidEdit(f"{self.edit!r}: there are heads 0 to {len(by_head) - 1}.")
        edited = by_head.clone()
        edited[heads] = changed_values(self.edit, by_head[heads], _tokens(self.operand, self.number, row, -2, here))
        states[slot.row, at] = edited.transpose(0, 1)


@dataclass(frozen=True)
class VisionEdit:
    """An edit of the vision tower's patches at one state, in every image or tile alike."""

    edit: Edit
    number: int
    operand: BroadcastOperand | None
    modules: Modules
    layer: int
    vision: VisionLayout

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""

        def act(value: object) -> object:
            tensor = first_tensor(value)
            states = tensor.clone()
            flat = states.view(-1, *states.shape[-2:]) if states.ndim != 4 else states.flatten(1, 2)
            patches = self.vision.patch_range(flat.shape[1])
            part = flat[:, patches.start : patches.stop]
            if self.operand is not None:
                self.operand.check_batch(len(part), repr(self.edit))
            operands = [None if self.operand is None else self.operand.at(self.number, image) for image in range(len(part))]
            changed = [changed_values(self.edit, image, operand) for image, operand in zip(part, operands, strict=True)]
            flat[:, patches.start : patches.stop] = torch.stack(changed)
            return with_first_tensor(value, flat.view(tensor.shape))

        return Step(tower_site(self.modules, self.layer), act, edits=True)


@dataclass(frozen=True)
class ModuleEdit:
    """An edit of what a module takes or returns.

    Attributes:
        rows: for each sequence the positions that are edited; None: the whole tensor.
    """

    edit: Edit
    number: int
    operand: BroadcastOperand | None
    read: Module
    rows: RowIndices | None

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""
        site = module_site(self.read.path, self.read.side)
        if self.rows is not None:
            adapter = StateSite(site, partial(token_states, axes=()), with_first_tensor)
            return StateEdit(self.edit, self.number, self.operand, adapter, self.rows, None).step(slots)

        def act(value: object) -> object:
            given = self.edit.operand
            operand = torch.as_tensor(getattr(given, "data", given)) if given is not None else None
            # A copy, as of the states of other edits: what a module takes may be the residual stream, and a function may write to it.
            return with_first_tensor(value, changed_values(self.edit, first_tensor(value).clone(), operand))

        return Step(site, act, edits=True)


def _split(pairs: Sequence[tuple[int, int]]) -> Places:
    return tuple(number for number, _ in pairs), tuple(index for _, index in pairs)


def _once(places: Sequence[Places], slots: Sequence[SequenceSlot]) -> list[Places]:
    """The places without keys of an earlier sequence: sequences in one row share the keys of their prefix, which are edited once."""
    edited: set[tuple[int, int]] = set()
    kept = []
    for slot, (numbers, indices) in zip(slots, places, strict=True):
        kept.append(_split([pair for pair in zip(numbers, indices, strict=True) if (slot.row, pair[1]) not in edited]))
        edited.update((slot.row, index) for index in kept[-1][1])
    return kept


def key_indices(slot: SequenceSlot, positions: Indices, call: AttentionCall) -> list[tuple[int, int]]:
    """(number of a position, key-axis index) of the positions that an attention call has keys of.

    A cache with a sliding window has the keys of the last tokens alone.
    """
    rows, width = call.shape
    dropped = max(0, slot.padding + slot.shared + rows - width) if slot.own_keys is None and slot.shared else 0
    reached = [(number, position) for number, position in enumerate(positions) if slot.own_keys is None or _known(slot, position)]
    indices = slot.keys([position for _, position in reached])
    return [(number, index - dropped) for (number, _), index in zip(reached, indices, strict=True) if 0 <= index - dropped < width]


def _known(slot: SequenceSlot, position: int) -> bool:
    return slot.own_keys is None or position < slot.shared + len(slot.own_keys)


def _tokens(operand: BroadcastOperand | None, layer: int, row: int, axis: int, here: Sequence[int]) -> Tensor | None:
    """The operand of one layer and row, at those of its positions that are in this forward."""
    return None if operand is None else select(operand.at(layer, row), axis, here)


def changed_values(edit: Edit, values: Tensor, operand: Tensor | None) -> Tensor:
    """The edited values, in their own dtype.

    Raises:
        InvalidEdit: the operand or the result has another shape.
    """
    assert edit.change is not None, "block edits change the mask"
    if isinstance(edit.operand, float):
        # A number, which torch does not round to the states' dtype first.
        operand = torch.tensor(edit.operand, dtype=torch.promote_types(values.dtype, torch.float32))
    elif operand is not None:
        operand = operand.to(values.device, values.dtype)
        shapes = zip(reversed(operand.shape), reversed(values.shape), strict=False)
        if operand.ndim > values.ndim or any(ours not in (1, theirs) for ours, theirs in shapes):
            raise InvalidEdit(f"{edit!r}: the value has the shape {tuple(operand.shape)}, what is edited {tuple(values.shape)}.")
    changed = edit.change(values, operand)
    if not isinstance(changed, Tensor) or changed.shape != values.shape:
        got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise InvalidEdit(f"{edit!r} gave {got} for values of the shape {tuple(values.shape)}. Return a tensor of that shape.")
    return changed.to(values.device, values.dtype)
