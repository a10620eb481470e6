"""From read requests to a plan: every layer and position resolved and checked before any forward."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Literal, TypeVar

from probe.errors import InvalidRead, NoAttention
from probe.tokens.spans import TokenMap
from probe.tracing.capturing.vision_layout import TOWER_NAMES, VisionLayout
from probe.tracing.layers import attention_layers, blocks_with, check_heads, head_count, layers_with_own_keys, resolve_layers
from probe.tracing.reads import (
    Attention,
    AttentionOutput,
    HeadOutput,
    HeadRead,
    Hidden,
    Keys,
    Logits,
    MLPOutput,
    Module,
    Position,
    Positions,
    Projected,
    Queries,
    Read,
    StateRead,
    Values,
    Vision,
    VisionAttention,
    as_heads,
    as_positions,
    check_read,
)
from probe.tracing.sites import BEFORE_NORM, StateAddress

if TYPE_CHECKING:
    from probe.tracing.modules import Modules

Indices = tuple[int, ...]
RowIndices = tuple[Indices, ...]
"""For each row of the batch, token indices counted from its first real token."""

T = TypeVar("T")


@dataclass(frozen=True)
class AttentionSelection:
    """The positions of an attention read's rows and columns, and which heads are kept; "mean" averages them."""

    query: tuple[Position, ...] | None
    key: tuple[Position, ...] | None
    heads: tuple[int, ...] | Literal["all", "mean"]


@dataclass
class ReadPlan:
    """What one forward has to capture.

    Attributes:
        states: address -> positions that are read there.
        heads: address of states of heads -> the heads that are kept; all, where it is missing.
        attention: decoder block -> attention selections that are read there.
        vision: the tower's `hidden_states` indices.
        logits: positions whose logits are read.
        hidden_reads: the positions of each `Hidden` read.
        logits_reads: the positions of each `Logits` read.
        layers_by_position: position -> the layers that `Hidden` reads named for it. (`Projected` reads layer 0, and is not counted.)
        vision_attention: the tower's blocks -> attention selections, whose positions are those of the tower's sequence.
        tower: how the tower's tokens are laid out, where its attention is read.
        modules: reads of modules as they are.
        positions: position of states, logits or modules -> its token indices in each row.
        queries, keys: attention selection -> the token indices of its rows and columns in each row of the batch.
    """

    states: dict[StateAddress, list[Position | None]] = field(default_factory=dict)
    heads: dict[StateAddress, tuple[int, ...]] = field(default_factory=dict)
    attention: dict[int, list[AttentionSelection]] = field(default_factory=dict)
    vision: tuple[int, ...] = ()
    vision_attention: dict[int, list[AttentionSelection]] = field(default_factory=dict)
    tower: VisionLayout | None = None
    modules: tuple[Module, ...] = ()
    logits: tuple[Position | None, ...] = ()
    hidden_reads: tuple[tuple[Position | None, ...], ...] = ()
    logits_reads: tuple[tuple[Position | None, ...], ...] = ()
    layers_by_position: dict[Position | None, set[int]] = field(default_factory=dict)
    positions: dict[Position | None, RowIndices] = field(default_factory=dict)
    queries: dict[AttentionSelection, RowIndices] = field(default_factory=dict)
    keys: dict[AttentionSelection, RowIndices] = field(default_factory=dict)


def resolve_reads(reads: Iterable[Read], modules: Modules, rows: Sequence[TokenMap]) -> ReadPlan:
    """Resolve reads against a model and the sequences of a batch.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch: before any forward runs.
    """
    resolution = Resolution(ReadPlan(), modules, rows)
    for read in reads:
        name = type(check_read(read)).__name__
        if name in modules.unreadable:
            raise InvalidRead(f"{name}() cannot be read from this family: {modules.unreadable[name]}")
        resolve(read, resolution)
    plan = resolution.plan
    plan.states = {address: _unique(positions) for address, positions in plan.states.items()}
    plan.vision_attention = {block: _unique(selections) for block, selections in plan.vision_attention.items()}
    plan.attention = {block: _unique(selections) for block, selections in plan.attention.items()}
    return plan


@dataclass(frozen=True)
class Resolution:
    """What a resolver works with.

    Attributes:
        plan: the plan, which the resolver adds its read to.
        modules: the model's modules.
        rows: the sequences of the batch.
    """

    plan: ReadPlan
    modules: Modules
    rows: Sequence[TokenMap]

    def indices(self, positions: tuple[Position, ...] | None) -> RowIndices:
        """The token indices of positions in each row; None: of every position.

        Raises:
            SpanNotFound, GridMismatch.
        """
        return tuple(token_indices(row, positions) for row in self.rows)

    def add_positions(self, at: Positions) -> tuple[Position | None, ...]:
        """The positions one by one, each with its token indices in the plan."""
        positions: tuple[Position | None, ...] = as_positions(at, "at") or (None,)
        for position in positions:
            if position not in self.plan.positions:
                self.plan.positions[position] = self.indices(None if position is None else (position,))
        return positions


@singledispatch
def resolve(read: Read, resolution: Resolution) -> None:
    """Add a read to the plan. Each kind of read registers its own resolver.

    Raises:
        InvalidRead: no resolver is registered for this kind of read.
    """
    raise InvalidRead(f"{read!r} cannot be resolved. Register a resolver for {type(read).__name__} in probe.tracing.resolving.")


@resolve.register(Hidden)
def _hidden(read: Hidden, resolution: Resolution) -> None:
    plan, depth = resolution.plan, len(resolution.modules.layers)
    layers = resolve_layers(read.layers, depth + 1, "hidden states", "0 (embeddings)")
    positions = resolution.add_positions(read.at)
    if read.normed:
        plan.hidden_reads = _appended_once(plan.hidden_reads, positions)
        for position in positions:
            plan.layers_by_position.setdefault(position, set()).update(layers)
    for layer in layers:
        address = StateAddress("Hidden" if read.normed or layer < depth else BEFORE_NORM, layer)
        plan.states.setdefault(address, []).extend(positions)


@resolve.register(Projected)
def _projected(read: Projected, resolution: Resolution) -> None:
    resolution.plan.states.setdefault(StateAddress("Hidden", 0), []).extend(resolution.add_positions("image"))


@resolve.register(AttentionOutput)
@resolve.register(MLPOutput)
def _part(read: StateRead, resolution: Resolution) -> None:
    name, parts = type(read).__name__, resolution.modules.parts
    paths = [part.attention if isinstance(read, AttentionOutput) else part.mlp for part in parts]
    positions = resolution.add_positions(read.at)
    for block in blocks_with(read.layers, paths, name):
        resolution.plan.states.setdefault(StateAddress(name, block), []).extend(positions)


@resolve.register(HeadOutput)
@resolve.register(Queries)
@resolve.register(Keys)
@resolve.register(Values)
def _heads(read: HeadRead, resolution: Resolution) -> None:
    plan, name, parts = resolution.plan, type(read).__name__, resolution.modules.parts
    if isinstance(read, HeadOutput):
        blocks = blocks_with(read.layers, [part.projection for part in parts], name)
    elif isinstance(read, Queries):
        blocks = attention_layers(read.layers, resolution.modules)
    else:
        blocks = layers_with_own_keys(read.layers, resolution.modules, name)
    positions = resolution.add_positions(read.at)
    for block in blocks:
        address = StateAddress(name, block)
        heads = check_heads(as_heads(read.heads, name), head_count(address, resolution.modules), f"{name} of block {block}")
        known = plan.heads.get(address) if address in plan.states else ()
        if heads == "all" or known is None:
            plan.heads.pop(address, None)
        else:
            plan.heads[address] = tuple(sorted({*known, *heads}))
        plan.states.setdefault(address, []).extend(positions)


@resolve.register(Attention)
def _attention(read: Attention, resolution: Resolution) -> None:
    plan = resolution.plan
    selection = AttentionSelection(
        as_positions(read.query, "query"), as_positions(read.key, "key"), as_heads(read.heads, "Attention", mean=True)
    )
    for block in attention_layers(read.layers, resolution.modules):
        check_heads(selection.heads, resolution.modules.parts[block].heads, f"the attention of block {block}")
        plan.attention.setdefault(block, []).append(selection)
    plan.queries[selection] = resolution.indices(selection.query)
    plan.keys[selection] = resolution.indices(selection.key)


@resolve.register(Module)
def _module(read: Module, resolution: Resolution) -> None:
    if not read.path or read.path not in resolution.modules.paths:
        near = difflib.get_close_matches(read.path, resolution.modules.paths, n=3, cutoff=0.4)
        raise InvalidRead(
            f"There is no module {read.path!r} in this model. Near it: {', '.join(near) or 'nothing'}. "
            "Name a path of model.model.named_modules()."
        )
    if read.at is not None and not resolution.modules.layers:
        raise InvalidRead(
            f"Module({read.path!r}, at=...): which tokens of a module of a vision encoder are patches is not known. Read it with at=None."
        )
    resolution.add_positions(read.at)
    resolution.plan.modules = _appended_once(resolution.plan.modules, read)


@resolve.register(Vision)
def _vision(read: Vision, resolution: Resolution) -> None:
    blocks = resolution.modules.vision_blocks
    if not blocks:
        raise InvalidRead("Vision states were asked for, but no vision tower was found in this model. Read Projected() instead.")
    for layer in resolve_layers(read.layers, len(blocks) + 1, "vision states", "0 (embeddings)"):
        resolution.plan.vision = _appended_once(resolution.plan.vision, layer)


@resolve.register(VisionAttention)
def _vision_attention(read: VisionAttention, resolution: Resolution) -> None:
    paths, plan = resolution.modules.vision_attention, resolution.plan
    known = [block for block, path in enumerate(paths) if path is not None]
    if not known:
        raise InvalidRead(
            "No block of a vision tower was found that calls transformers' attention interface. Read Vision() states instead."
        )
    selection = AttentionSelection(
        as_positions(read.query, "query"), as_positions(read.key, "key"), as_heads(read.heads, "VisionAttention", mean=True)
    )
    names = [name for name in (*(selection.query or ()), *(selection.key or ())) if not isinstance(name, int)]
    if any(name not in TOWER_NAMES for name in names):
        raise InvalidRead(f"{read!r}: positions in the vision tower are numbers, 'class' or 'patches'.")
    layers = known if read.layers == "all" else resolve_layers(read.layers, len(paths), "the vision tower's attention", "0")
    for block in layers:
        if block not in known:
            raise NoAttention(f"Block {block} of the vision tower has no attention that can be read. Blocks with it: {known}.")
        plan.vision_attention.setdefault(block, []).append(selection)


@resolve.register(Logits)
def _logits(read: Logits, resolution: Resolution) -> None:
    plan = resolution.plan
    positions = resolution.add_positions(read.at)
    plan.logits_reads = _appended_once(plan.logits_reads, positions)
    plan.logits = tuple(dict.fromkeys((*plan.logits, *positions)))


def token_indices(row: TokenMap, positions: Iterable[Position] | None) -> Indices:
    """The token indices of positions in one sequence; None: of every position.

    Raises:
        SpanNotFound, GridMismatch.
    """
    if positions is None:
        return tuple(range(len(row)))
    return tuple(index for position in positions for index in row.resolve(position))


def _appended_once(values: tuple[T, ...], value: T) -> tuple[T, ...]:
    return values if value in values else (*values, value)


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
