"""From edits to steps: every layer, position, head and shape resolved and checked before any forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from probe.errors import InvalidEdit
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation
from probe.tracing.capturing.vision_layout import VisionLayout
from probe.tracing.edits.attention_edits import AttentionEdit, BlockEdit
from probe.tracing.edits.kinds import Edit
from probe.tracing.edits.operands import BroadcastOperand, by_number
from probe.tracing.edits.state_edits import ModuleEdit, StateEdit, VisionEdit
from probe.tracing.layers import head_count, layers_with_own_keys
from probe.tracing.modules import Modules
from probe.tracing.reads import Attention, HeadRead, Module, Projected, StateRead, Vision, as_heads, as_positions
from probe.tracing.resolving import Indices, ReadPlan, resolve_reads, token_indices
from probe.tracing.sites import StateAddress, Step, state_site
from probe.tracing.slots import SequenceSlot

Width = Callable[[StateAddress | Module], int | None]
"""How many features the states of an address, or a module's tensor, have; None: not known before the forward."""


class ResolvedEdit(Protocol):
    """An edit of one layer, resolved for the sequences of a batch."""

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """What is done in a forward that has the sequences in these slots."""


@dataclass(frozen=True)
class EditPlan:
    """What the edits of one forward do.

    Attributes:
        edits: in the order in which they are done at one site.
    """

    edits: tuple[ResolvedEdit, ...] = ()

    def steps(self, slots: Sequence[SequenceSlot]) -> list[Step]:
        """The steps of all edits, in a forward that has the sequences in these slots.

        At an attention call, weights are edited behind its arguments, since they follow from them.
        """
        ordered = sorted(self.edits, key=lambda edit: isinstance(edit, AttentionEdit))
        return [replace(edit.step(slots), number=number) for number, edit in enumerate(ordered)]


def check_edits(edits: Iterable[Edit] | Edit) -> tuple[Edit, ...]:
    """The edits as a tuple.

    Raises:
        InvalidEdit: something that is no edit.
    """
    given = tuple(edits) if isinstance(edits, Iterable) else (edits,)
    for edit in given:
        if not isinstance(edit, Edit):
            raise InvalidEdit(f"edits= takes edits, such as probe.edit.zero(probe.Hidden(3, at='image')); got {edit!r}.")
    return given


def resolve_edits(edits: Sequence[Edit], modules: Modules, rows: Sequence[TokenMap], vision: VisionLayout, width: Width) -> EditPlan:
    """Resolve edits against a model and the sequences of a batch.

    Raises:
        InvalidEdit, InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch: before any forward runs.
    """
    return EditPlan(tuple(resolved for edit in edits for resolved in _resolved(edit, modules, rows, vision, width)))


def _resolved(edit: Edit, modules: Modules, rows: Sequence[TokenMap], vision: VisionLayout, width: Width) -> Iterator[ResolvedEdit]:
    plan, read = resolve_reads([edit.read], modules, rows), edit.read
    match read:
        case Attention():
            yield from _attention(edit, read, modules, plan, rows)
        case Vision():
            sizes = {"layer": len(plan.vision)} | ({} if vision.patches is None else {"token": vision.patches})
            sizes |= _features(width, [StateAddress("Vision", layer) for layer in plan.vision])
            operand = _operand(edit, ("token", "feature"), [sizes], {"layer": plan.vision}, batch=0)
            for number, layer in enumerate(plan.vision):
                yield VisionEdit(edit, number, operand, modules, layer, vision)
        case Module():
            at = as_positions(read.at, "at")
            indices = None if at is None else tuple(token_indices(row, at) for row in rows)
            features = _features(width, [read])
            if indices is None:
                _check_last_axis(edit, features)
                yield ModuleEdit(edit, 0, None, read, None)
                return
            known = [{"layer": 1, "token": len(row)} | features for row in indices]
            yield ModuleEdit(edit, 0, _operand(edit, ("token", "feature"), known, {}), read, indices)
        case StateRead() | Projected():
            yield from _states(edit, read, modules, plan, rows, width)
        case _:
            raise InvalidEdit(f"{type(read).__name__} cannot be edited.")


def _states(
    edit: Edit, read: StateRead | Projected, modules: Modules, plan: ReadPlan, rows: Sequence[TokenMap], width: Width
) -> Iterator[ResolvedEdit]:
    at = as_positions("image" if isinstance(read, Projected) else read.at, "at")
    indices = tuple(token_indices(row, at) for row in rows)
    heads = as_heads(read.heads, type(read).__name__) if isinstance(read, HeadRead) else None
    kept = heads if isinstance(heads, tuple) else None
    axes = ("token", "feature") if heads is None else ("head", "token", "feature")
    operand = None
    if edit.operand is not None:
        known = {"layer": len(plan.states)} | _features(width, plan.states)
        known |= {} if heads is None else _heads(kept, [head_count(address, modules) for address in plan.states])
        labels = {"layer": [address.layer for address in plan.states]} | ({} if kept is None else {"head": list(kept)})
        operand = _operand(edit, axes, [known | {"token": len(row)} for row in indices], labels)
    for number, address in enumerate(plan.states):
        yield StateEdit(edit, number, operand, state_site(address, modules), indices, kept)


def _attention(edit: Edit, read: Attention, modules: Modules, plan: ReadPlan, rows: Sequence[TokenMap]) -> Iterator[ResolvedEdit]:
    ((queries,), (keys,)) = plan.queries.values(), plan.keys.values()
    without = sorted(modules.attention_without_interface & set(plan.attention))
    if without:
        raise InvalidEdit(
            f"Attention of block {without[0]} cannot be edited: {modules.attention[without[0]]} computes it without transformers' attention "
            "interface. Edit AttentionOutput() instead."
        )
    layers_with_own_keys(tuple(plan.attention), modules, f"{edit!r}: attention")
    heads = as_heads(read.heads, "Attention")
    kept = heads if isinstance(heads, tuple) else None
    if edit.change is None:
        _check_keys_are_left(queries, keys, edit, [len(row) for row in rows], causal=modules.causal)
        yield from (BlockEdit(edit, modules, block, queries, keys, kept) for block in plan.attention)
        return
    sizes = [{"layer": len(plan.attention), "query": len(q), "key": len(k)} for q, k in zip(queries, keys, strict=True)]
    labels = {"layer": list(plan.attention)} | ({} if kept is None else {"head": list(kept)})
    count = _heads(kept, [modules.parts[block].heads for block in plan.attention])
    operand = _operand(edit, ("head", "query", "key"), [size | count for size in sizes], labels)
    for number, block in enumerate(plan.attention):
        yield AttentionEdit(edit, number, operand, modules, block, queries, keys, kept)


def _check_keys_are_left(queries: Sequence[Indices], keys: Sequence[Indices], edit: Edit, lengths: Sequence[int], *, causal: bool) -> None:
    """Refuse to block every key that a causal mask leaves to a query; where no such mask is known, every key. The forward sees the rest."""
    for row_queries, row_keys, length in zip(queries, keys, lengths, strict=True):
        blocked = set(row_keys)
        first_kept = next(position for position in range(len(blocked) + 1) if position not in blocked)
        alone = [query for query in row_queries if query < first_kept and (causal or first_kept == length)]
        if alone:
            which = "positions up to its own are" if causal else "every position is"
            raise InvalidEdit(
                f"{edit!r} leaves position {alone[0]} no key to attend to: {which} blocked. Leave one out, or use zero(), which sets weights to 0 "
                "without renormalising."
            )


def _features(width: Width, addresses: Iterable[StateAddress | Module]) -> dict[str, int]:
    """The length of the `feature` axis, if it is known, and the same at all of these."""
    widths = {width(address) for address in addresses}
    size = widths.pop() if len(widths) == 1 else None
    return {} if size is None else {"feature": size}


def _heads(kept: Indices | None, counts: Sequence[int]) -> dict[str, int]:
    """The length of the `head` axis, if it is known, and the same in all blocks.

    Args:
        counts: the heads of each block; 0: not known.
    """
    if kept is not None:
        return {"head": len(kept)}
    return {"head": counts[0]} if len({*counts}) == 1 and counts[0] else {}


def _check_last_axis(edit: Edit, features: Mapping[str, int]) -> None:
    """Refuse an operand that is put beside a module's whole tensor and is of another width."""
    operand, size = edit.operand, features.get("feature")
    shape = (
        tuple(operand.shape.values()) if isinstance(operand, Activation) else tuple(operand.shape) if isinstance(operand, Tensor) else ()
    )
    if size is not None and shape and shape[-1] not in (1, size):
        raise InvalidEdit(f"{edit!r}: the value is {shape[-1]} long along its last axis, what is edited {size}. Give it that length, or 1.")


def _operand(
    edit: Edit, axes: tuple[str, ...], sizes: Sequence[dict[str, int]], labels: Mapping[str, Sequence[int]], batch: int | None = None
) -> BroadcastOperand | None:
    return None if edit.operand is None else BroadcastOperand(by_number(edit.operand, labels), axes, sizes, repr(edit), batch)
