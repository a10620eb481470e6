"""From read requests to a plan: every layer and position resolved and checked before any forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from probe.errors import InvalidLayer, InvalidRead, NoAttention
from probe.tokens.spans import TokenMap
from probe.tracing.modules import Modules
from probe.tracing.reads import Attention, Hidden, Layers, Logits, Position, Positions, Projected, Read, Vision, merge, places

Indices = tuple[int, ...]
RowIndices = tuple[Indices, ...]
"""For each row of the batch, positions counted from its first real token."""


@dataclass(frozen=True)
class AttentionSelection:
    """Whose rows, which columns, heads kept or averaged: what identifies an attention read beside its layer."""

    query: tuple[Position, ...] | None
    key: tuple[Position, ...] | None
    heads: str


@dataclass(frozen=True)
class ReadPlan:
    """What one forward has to give.

    Attributes:
        hidden: `hidden_states` index -> the places read there.
        attention: decoder block -> the attention places read there.
        vision: the tower's `hidden_states` indices.
        logits: the places whose logits are read.
        asked: the places of each read of hidden states, as they were asked for together.
        asked_logits: likewise of logits.
        asked_layers: for each place the layers at which hidden states were asked for; `Projected` reads layer 0 besides.
        positions: every place of hidden states and logits, resolved.
        queries, keys: every attention place, resolved; keys None for all.
    """

    hidden: dict[int, list[Position | None]] = field(default_factory=dict)
    attention: dict[int, list[AttentionSelection]] = field(default_factory=dict)
    vision: tuple[int, ...] = ()
    logits: tuple[Position | None, ...] = ()
    asked: tuple[tuple[Position | None, ...], ...] = ()
    asked_logits: tuple[tuple[Position | None, ...], ...] = ()
    asked_layers: dict[Position | None, set[int]] = field(default_factory=dict)
    positions: dict[Position | None, RowIndices] = field(default_factory=dict)
    queries: dict[AttentionSelection, RowIndices] = field(default_factory=dict)
    keys: dict[AttentionSelection, RowIndices] = field(default_factory=dict)


@dataclass(frozen=True)
class SequenceSlot:
    """Where one sequence sits in the tensors of a forward.

    Attributes:
        row: of the batch.
        start: before which many tokens of its row its own begin.
        shared: how many of its first positions are a prefix that was read before: they are the first keys, and have no states here.
    """

    row: int
    start: int = 0
    shared: int = 0

    def tokens(self, positions: Sequence[int]) -> list[int]:
        """Indices on the axis of tokens, of those positions that are not the prefix's."""
        return [self.start + position - self.shared for position in positions if position >= self.shared]

    def keys(self, positions: Sequence[int]) -> list[int]:
        """Indices on the axis of keys."""
        return [position if position < self.shared else self.start + position for position in positions]


def resolve_reads(reads: Iterable[Read], modules: Modules, rows: Sequence[TokenMap]) -> ReadPlan:
    """Resolve reads against a model and the sequences of a batch.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch: before any forward runs.
    """
    reads = tuple(reads)
    made = ReadPlan()
    vision: tuple[int, ...] = ()
    logits: dict[Position | None, None] = {}
    for read in merge(reads):
        if type(read).__name__ in modules.unreadable:
            raise InvalidRead(f"{type(read).__name__}() cannot be read from this family: {modules.unreadable[type(read).__name__]}")
        match read:
            case Hidden(layers, at):
                numbers = resolve_layers(layers, len(modules.layers) + 1, "hidden states", "0 (embeddings)")
                for place in places(at, "at") or (None,):
                    made.asked_layers.setdefault(place, set()).update(numbers)
                    for number in numbers:
                        made.hidden.setdefault(number, []).append(place)
                _locate(made, at, rows)
            case Projected():
                made.hidden.setdefault(0, []).append("image")
                _locate(made, ("image",), rows)
            case Attention(layers, query, key, heads):
                pair = AttentionSelection(places(query, "query"), places(key, "key"), heads)
                for layer in attention_layers(layers, modules):
                    made.attention.setdefault(layer, []).append(pair)
                made.queries[pair] = tuple(_positions(row, pair.query) for row in rows)
                made.keys[pair] = tuple(_positions(row, pair.key) for row in rows)
            case Vision(layers):
                if not modules.vision_blocks:
                    raise InvalidRead(
                        "Vision states were asked for, but no vision tower was found in this model. Read Projected() instead."
                    )
                vision = resolve_layers(layers, len(modules.vision_blocks) + 1, "vision states", "0 (embeddings)")
            case Logits(at):
                logits |= dict.fromkeys(places(at, "at") or (None,))
                _locate(made, at, rows)
    for layer, wanted in made.hidden.items():
        made.hidden[layer] = list(dict.fromkeys(wanted))
    asked = dict.fromkeys(places(read.at, "at") or (None,) for read in reads if isinstance(read, Hidden))
    asked_logits = dict.fromkeys(places(read.at, "at") or (None,) for read in reads if isinstance(read, Logits))
    return replace(made, vision=vision, logits=tuple(logits), asked=tuple(asked), asked_logits=tuple(asked_logits))


def resolve_layers(layers: Layers, count: int, what: str, first: str) -> tuple[int, ...]:
    """Layer numbers counted from 0, in the order asked, each once.

    Raises:
        InvalidLayer: out of range; the range is named.
    """
    if isinstance(layers, int):
        layers = (layers,)
    numbers = tuple(range(count)) if layers == "all" else tuple(layers)
    for number in numbers:
        if not isinstance(number, int) or not -count <= number < count:
            raise InvalidLayer(f"{what.capitalize()} of layer {number} were asked for, but this model has layers {first} to {count - 1}.")
    return tuple(dict.fromkeys(number % count for number in numbers if isinstance(number, int)))


def attention_layers(layers: Layers, modules: Modules) -> tuple[int, ...]:
    """Decoder blocks with attention; "all" means all that have it.

    Raises:
        InvalidLayer, NoAttention: the blocks that have attention are named.
    """
    having = tuple(i for i, path in enumerate(modules.attention) if path is not None)
    if layers == "all":
        return having
    numbers = resolve_layers(layers, len(modules.attention), "attention", "0")
    for number in numbers:
        if number not in having:
            raise NoAttention(
                f"Block {number} has no attention that can be read. Blocks with attention: {', '.join(map(str, having)) or 'none'}."
            )
    return numbers


def _locate(made: ReadPlan, at: Positions, rows: Sequence[TokenMap]) -> None:
    for place in places(at, "at") or (None,):
        made.positions[place] = tuple(_positions(row, None if place is None else (place,)) for row in rows)


def _positions(row: TokenMap, where: tuple[Position, ...] | None) -> Indices:
    if where is None:
        return tuple(range(len(row)))
    return tuple(position for place in where for position in row.resolve(place))
