"""From read requests to a plan: every layer and position resolved and checked before any forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, TypeVar

from probe.errors import InvalidLayer, InvalidRead, NoAttention
from probe.tokens.spans import TokenMap
from probe.tracing.reads import (
    Attention,
    Hidden,
    Layers,
    Logits,
    Position,
    Positions,
    Projected,
    Read,
    Vision,
    as_layers,
    as_positions,
    check_read,
)

if TYPE_CHECKING:
    from probe.tracing.modules import Modules

Indices = tuple[int, ...]
RowIndices = tuple[Indices, ...]
"""For each row of the batch, token indices counted from its first real token."""

T = TypeVar("T")


@dataclass(frozen=True)
class AttentionSelection:
    """The positions of an attention read's rows and columns, and whether its heads are kept or averaged."""

    query: tuple[Position, ...] | None
    key: tuple[Position, ...] | None
    heads: str


@dataclass
class ReadPlan:
    """What one forward has to capture.

    Attributes:
        hidden: `hidden_states` index -> positions that are read there.
        attention: decoder block -> attention selections that are read there.
        vision: the tower's `hidden_states` indices.
        logits: positions whose logits are read.
        hidden_reads: the positions of each `Hidden` read.
        logits_reads: the positions of each `Logits` read.
        layers_by_position: position -> the layers that `Hidden` reads named for it. (`Projected` reads layer 0, and is not counted.)
        positions: position of hidden states or logits -> its token indices in each row.
        queries, keys: attention selection -> the token indices of its rows and columns in each row of the batch.
    """

    hidden: dict[int, list[Position | None]] = field(default_factory=dict)
    attention: dict[int, list[AttentionSelection]] = field(default_factory=dict)
    vision: tuple[int, ...] = ()
    logits: tuple[Position | None, ...] = ()
    hidden_reads: tuple[tuple[Position | None, ...], ...] = ()
    logits_reads: tuple[tuple[Position | None, ...], ...] = ()
    layers_by_position: dict[Position | None, set[int]] = field(default_factory=dict)
    positions: dict[Position | None, RowIndices] = field(default_factory=dict)
    queries: dict[AttentionSelection, RowIndices] = field(default_factory=dict)
    keys: dict[AttentionSelection, RowIndices] = field(default_factory=dict)


@dataclass(frozen=True)
class SequenceSlot:
    """Where one sequence is in the tensors of a forward.

    Attributes:
        row: index in the batch.
        start: index of the sequence's first new token on the token axis.
        shared: length of its prefix that is already in the KV cache. Prefix positions are the first keys, and have no states here.
    """

    row: int
    start: int = 0
    shared: int = 0

    def tokens(self, positions: Sequence[int]) -> list[int]:
        """Token-axis indices of the positions after the prefix."""
        return [self.start + position - self.shared for position in positions if position >= self.shared]

    def keys(self, positions: Sequence[int]) -> list[int]:
        """Key-axis indices of the positions."""
        return [position if position < self.shared else self.start + position for position in positions]


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
    plan.hidden = {layer: _unique(positions) for layer, positions in plan.hidden.items()}
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
    plan = resolution.plan
    layers = resolve_layers(read.layers, len(resolution.modules.layers) + 1, "hidden states", "0 (embeddings)")
    positions = resolution.add_positions(read.at)
    plan.hidden_reads = _appended_once(plan.hidden_reads, positions)
    for position in positions:
        plan.layers_by_position.setdefault(position, set()).update(layers)
        for layer in layers:
            plan.hidden.setdefault(layer, []).append(position)


@resolve.register(Projected)
def _projected(read: Projected, resolution: Resolution) -> None:
    resolution.plan.hidden.setdefault(0, []).extend(resolution.add_positions("image"))


@resolve.register(Attention)
def _attention(read: Attention, resolution: Resolution) -> None:
    plan = resolution.plan
    selection = AttentionSelection(as_positions(read.query, "query"), as_positions(read.key, "key"), read.heads)
    for block in attention_layers(read.layers, resolution.modules):
        plan.attention.setdefault(block, []).append(selection)
    plan.queries[selection] = resolution.indices(selection.query)
    plan.keys[selection] = resolution.indices(selection.key)


@resolve.register(Vision)
def _vision(read: Vision, resolution: Resolution) -> None:
    blocks = resolution.modules.vision_blocks
    if not blocks:
        raise InvalidRead("Vision states were asked for, but no vision tower was found in this model. Read Projected() instead.")
    for layer in resolve_layers(read.layers, len(blocks) + 1, "vision states", "0 (embeddings)"):
        resolution.plan.vision = _appended_once(resolution.plan.vision, layer)


@resolve.register(Logits)
def _logits(read: Logits, resolution: Resolution) -> None:
    plan = resolution.plan
    positions = resolution.add_positions(read.at)
    plan.logits_reads = _appended_once(plan.logits_reads, positions)
    plan.logits = tuple(dict.fromkeys((*plan.logits, *positions)))


def resolve_layers(layers: Layers, count: int, what: str, first: str) -> tuple[int, ...]:
    """Layer numbers counted from 0, in the order named, each once.

    Raises:
        InvalidLayer: out of range; the range is named.
    """
    named = as_layers(layers, what)
    numbers = tuple(range(count)) if named == "all" else named
    for number in numbers:
        if not -count <= number < count:
            raise InvalidLayer(f"Layer {number} was asked for, to read {what}, but this model has layers {first} to {count - 1}.")
    return tuple(dict.fromkeys(number % count for number in numbers))


def attention_layers(layers: Layers, modules: Modules) -> tuple[int, ...]:
    """Decoder blocks with attention; "all" means all that have it.

    Raises:
        InvalidLayer, NoAttention: the blocks that have attention are named.
    """
    with_attention = tuple(block for block, path in enumerate(modules.attention) if path is not None)
    if layers == "all":
        return with_attention
    numbers = resolve_layers(layers, len(modules.attention), "attention", "0")
    for number in numbers:
        if number not in with_attention:
            raise NoAttention(
                f"Block {number} has no attention that can be read. Blocks with attention: {', '.join(map(str, with_attention)) or 'none'}."
            )
    return numbers


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
