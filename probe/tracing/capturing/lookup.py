"""Finds captured tensors by position: a read of every position also answers for the image, or for one word of the answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.errors import NotRead
from probe.tokens.spans import TokenMap
from probe.tracing.capturing.captured import Captured
from probe.tracing.reads import Heads, Position, position_name, position_names
from probe.tracing.resolving import AttentionSelection, Indices, ReadPlan, RowIndices, token_indices
from probe.tracing.sites import StateAddress

RequestedPositions = Sequence[Position | None]
"""Positions, one after the other; None is every position of the sequence."""


@dataclass(frozen=True, eq=False)
class CapturedByPosition:
    """The captured tensors of one forward, found by position.

    Attributes:
        tokens: the TokenMap of each row of the batch.
        captured: the tensors, by the positions that were read.
        plan: the token indices of those positions.
    """

    tokens: tuple[TokenMap, ...]
    captured: Captured
    plan: ReadPlan

    def indices(self, requested: RequestedPositions) -> RowIndices:
        """The token indices of these positions in each row of the batch.

        Raises:
            SpanNotFound, GridMismatch.
        """
        each = [self._indices_of(position) for position in requested]
        if len(each) == 1:
            return each[0]
        return tuple(tuple(index for rows in each for index in rows[row]) for row in range(len(self.tokens)))

    def layers(self, read: str, position: Position | None) -> set[int]:
        """The layers whose states at a position were captured, by any read.

        Args:
            read: `StateAddress.read`.
        """
        return self._layers_with(position, [(address.layer, at) for address, at in self.captured.states if address.read == read])

    def requested_layers(self, position: Position | None) -> set[int]:
        """The layers at which `Hidden` reads asked for a position.

        These are the layers of the reads that name it; else of those whose positions include it; else all that were captured.
        """
        named = self.plan.layers_by_position
        if position in named:
            return named[position]
        return self._layers_with(position, [(layer, other) for other, layers in named.items() for layer in layers]) or self.layers(
            "Hidden", position
        )

    def states(self, address: StateAddress, requested: RequestedPositions) -> list[Tensor]:
        """States at an address, (token, feature) or (head, token, feature) for each row of the batch."""
        return self._states({position: states for (other, position), states in self.captured.states.items() if other == address}, requested)

    def logits(self, requested: RequestedPositions) -> list[Tensor]:
        """Logits (token, vocabulary) for each row of the batch.

        Raises:
            NotRead: the message lists the positions that were read.
        """
        for position in requested:
            if not self._sources(self.captured.logits, position):
                raise NotRead(not_read("Logits", position, self.captured.logits))
        return self._states(self.captured.logits, requested)

    def attention_selections(
        self, query: tuple[Position, ...] | None, key: tuple[Position, ...] | None, heads: Heads | None, blocks: Sequence[int] | None
    ) -> dict[int, AttentionSelection]:
        """For each block the attention read that is meant.

        It is the read of exactly these positions, or else one that includes them.

        Args:
            query, key, heads: None: any.
            blocks: reads of other blocks are left out of account; None: no read is.

        Raises:
            NotRead: no read fits, or several that differ in an argument that is None.
        """
        known = attention_selections(self.captured)
        if not known:
            raise NotRead(nothing_read("attention rows"))
        candidates = [
            selection
            for selection in known
            if heads in (None, selection.heads)
            and (blocks is None or any((block, selection) in self.captured.attention for block in blocks))
        ]
        fitting = [one for one in candidates if query in (None, one.query) and key in (None, one.key)]
        fitting = fitting or [one for one in candidates if self.includes(one, query, key)]
        if not fitting:
            raise NotRead(f"No attention was read from {_named(query)} to {_named(key)}. Attention reads: {described(known)}.")
        if len({(query or one.query, key or one.key, one.heads) for one in fitting}) > 1:
            raise NotRead(f"Several attention reads fit; name one by query=, key= or heads=. Attention reads: {described(fitting)}.")
        return {number: selection for number, selection in self.captured.attention if selection in fitting}

    def attention(self, block: int, selection: AttentionSelection, queries: RowIndices, keys: RowIndices) -> list[Tensor]:
        """Some rows and columns of an attention read, for each row of the batch: ([head,] query, key).

        Raises:
            NotRead: columns of a block whose keys are not the sequence's positions.
        """
        read_queries, read_keys = self.plan.queries[selection], self.plan.keys[selection]
        parts = []
        for row, weights in enumerate(self.captured.attention[block, selection]):
            if keys != read_keys and weights.shape[-1] != len(read_keys[row]):
                raise NotRead(
                    f"Block {block} attends to {weights.shape[-1]} keys of its own, not to the sequence's tokens. Leave key= out."
                )
            part = _select(weights, -2, read_queries[row], queries[row])
            parts.append(_select(part, -1, read_keys[row], keys[row]))
        return parts

    def _indices_of(self, position: Position | None) -> RowIndices:
        known = self.plan.positions.get(position)
        if known is not None:
            return known
        return tuple(token_indices(row, None if position is None else (position,)) for row in self.tokens)

    def _layers_with(self, position: Position | None, reads: Iterable[tuple[int, Position | None]]) -> set[int]:
        """The layers at which reads (layer, position) include a position."""
        read_at: dict[int, list[Position | None]] = {}
        for layer, other in reads:
            read_at.setdefault(layer, []).append(other)
        included = {positions: bool(self._sources(positions, position)) for positions in set(map(tuple, read_at.values()))}
        return {layer for layer, positions in read_at.items() if included[tuple(positions)]}

    def _sources(self, read: Iterable[Position | None], position: Position | None) -> tuple[Position | None, ...]:
        """The positions read that together include a position: itself, else the smallest that does, else all; none if all do not."""
        known = sorted(read, key=lambda other: sum(map(len, self.plan.positions[other])))
        if position in known:
            return (position,)
        requested = self.indices([position])
        for other in known:
            if _covers(self.plan.positions[other], requested):
                return (other,)
        return tuple(known) if _covers(self.indices(known), requested) else ()

    def _states(self, read: Mapping[Position | None, list[Tensor]], requested: RequestedPositions) -> list[Tensor]:
        """States ([head,] token, feature) at the requested positions, for each row of the batch."""
        sources = [(self._sources(read, position), self.indices([position])) for position in requested]
        return [_joined([self._part(read, source, indices, row) for source, indices in sources]) for row in range(len(self.tokens))]

    def _part(self, read: Mapping[Position | None, list[Tensor]], source: RequestedPositions, indices: RowIndices, row: int) -> Tensor:
        states = _joined([read[position][row] for position in source])
        return _select(states, -2, self.indices(source)[row], indices[row])

    def includes(self, selection: AttentionSelection, query: tuple[Position, ...] | None, key: tuple[Position, ...] | None) -> bool:
        """Whether a captured selection has these rows and columns; None: any."""
        return (query is None or _covers(self.plan.queries[selection], self.indices(query))) and (
            key is None or _covers(self.plan.keys[selection], self.indices(key))
        )


def _covers(read: RowIndices, requested: RowIndices) -> bool:
    return all(set(indices) <= set(available) for available, indices in zip(read, requested, strict=True))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts one after the other along the tokens; a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -2)


def _select(values: Tensor, axis: int, read: Indices, requested: Indices) -> Tensor:
    """The requested token indices of an axis that has those that were read, in the order of the request."""
    if read == requested:
        return values
    order = {index: number for number, index in enumerate(read)}
    return values.index_select(axis, torch.tensor([order[index] for index in requested], dtype=torch.long, device=values.device))


def attention_selections(captured: Captured) -> list[AttentionSelection]:
    """The selection of every attention read, each once."""
    return list(dict.fromkeys(selection for _, selection in captured.attention))


def not_read(what: str, position: Position | None, read: Collection[Position | None]) -> str:
    """The message about states of a position that was not read, by the positions that were."""
    if not read:
        return nothing_read(what[0].lower() + what[1:])
    return f"{what} at {position_name(position)} were not read. Read at: {position_names(read)}."


def nothing_read(what: str) -> str:
    """The message about states of which a run read none."""
    return f"No {what} were read. Name them in the reads of the run."


def described(selections: Sequence[AttentionSelection]) -> str:
    """Attention selections, for messages."""
    return "; ".join(f"{_named(one.query)} to {_named(one.key)} (heads={one.heads})" for one in selections) or "none"


def _named(positions: tuple[Position, ...] | None) -> str:
    return "all" if positions is None else " + ".join(map(position_name, positions))
