"""What one forward captured, found by position: a read at every position answers for each place, one of the answer for its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.errors import NotRead
from probe.tokens.spans import Span, TokenMap
from probe.tracing.engine import Captured
from probe.tracing.reads import Position
from probe.tracing.resolving import AttentionSelection, Indices, ReadPlan, RowIndices
from probe.tracing.selecting import listed

Wanted = Sequence[Position | None]
"""Places one behind the other; None is every position."""


@dataclass(frozen=True, eq=False)
class Held:
    """The captured tensors of one forward.

    Attributes:
        tokens: the TokenMap of each row of the batch.
        captured: the tensors, by the places that were read.
        plan: the positions of those places.
    """

    tokens: tuple[TokenMap, ...]
    captured: Captured
    plan: ReadPlan

    def positions(self, wanted: Wanted) -> RowIndices:
        """The positions of several places in each row of the batch.

        Raises:
            SpanNotFound, GridMismatch.
        """
        known = self.plan.positions
        each = [known[place] if place in known else _resolved(place, self.tokens) for place in wanted]
        return tuple(tuple(position for rows in each for position in rows[row]) for row in range(len(self.tokens)))

    def layers(self, place: Position | None) -> set[int]:
        """The layers whose hidden states at a place were captured, for whatever read."""
        return self._holding(place, [(number, other) for number, other in self.captured.hidden])

    def asked_layers(self, place: Position | None) -> set[int]:
        """The layers at which `Hidden` reads asked for a place by name, or else for its positions; where none did, those captured."""
        named = self.plan.asked_layers
        if place in named:
            return named[place]
        asked = [(number, other) for other, numbers in named.items() for number in numbers]
        return self._holding(place, asked) or self.layers(place)

    def hidden(self, layer: int, wanted: Wanted) -> list[Tensor]:
        """Hidden states of a layer, (token, feature) for each row of the batch."""
        return self._states({place: states for (number, place), states in self.captured.hidden.items() if number == layer}, wanted)

    def logits(self, wanted: Wanted) -> list[Tensor]:
        """Logits (token, vocabulary) for each row of the batch.

        Raises:
            NotRead.
        """
        for place in wanted:
            if not self._sources(self.captured.logits, place):
                raise NotRead(f"Logits at {place_name(place)} were not read. Read at: {place_names(self.captured.logits)}.")
        return self._states(self.captured.logits, wanted)

    def attention_sources(
        self, query: tuple[Position, ...] | None, key: tuple[Position, ...] | None, heads: str | None, block: int | None
    ) -> dict[int, AttentionSelection]:
        """For each block the read that is meant: of exactly these places, or else one that holds their positions; None: whatever was read.

        Raises:
            NotRead: there is none, or there are several that differ in what is not named.
        """
        there = [
            place
            for place in attention_places(self.captured)
            if heads in (None, place.heads) and (block is None or (block, place) in self.captured.attention)
        ]
        fits = [place for place in there if query in (None, place.query) and key in (None, place.key)]
        fits = fits or [place for place in there if self._holds_rows(place, query, key)]
        if not fits:
            known = described(attention_places(self.captured))
            raise NotRead(f"No attention was read from {_side(query)} to {_side(key)}. Attention reads: {known}.")
        if len({(query or place.query, key or place.key, place.heads) for place in fits}) > 1:
            raise NotRead(f"Several attention reads fit; name one by query=, key= or heads=. Attention reads: {described(fits)}.")
        return {number: place for number, place in self.captured.attention if place in fits}

    def attention(self, block: int, place: AttentionSelection, queries: RowIndices, keys: RowIndices) -> list[Tensor]:
        """Some of the rows and columns of an attention read, (head, query, key) or (query, key), for each row of the batch.

        Raises:
            NotRead: columns of a block whose keys are not the sequence's positions.
        """
        known_queries, known_keys = self.plan.queries[place], self.plan.keys[place]
        made = []
        for row, weights in enumerate(self.captured.attention[block, place]):
            if keys != known_keys and weights.shape[-1] != len(known_keys[row]):
                raise NotRead(
                    f"Block {block} attends to {weights.shape[-1]} keys of its own, not to the sequence's tokens. Leave key= out."
                )
            made.append(_picked(_picked(weights, -2, known_queries[row], queries[row]), -1, known_keys[row], keys[row]))
        return made

    def _holding(self, place: Position | None, read: Iterable[tuple[int, Position | None]]) -> set[int]:
        """The layers at which the places read there hold a place."""
        at: dict[int, list[Position | None]] = {}
        for number, other in read:
            at.setdefault(number, []).append(other)
        hold = {places: bool(self._sources(places, place)) for places in set(map(tuple, at.values()))}
        return {number for number, places in at.items() if hold[tuple(places)]}

    def _sources(self, read: Iterable[Position | None], place: Position | None) -> tuple[Position | None, ...]:
        """Those of the places read that together hold a place: itself, the smallest that does, or all; nothing where all do not."""
        known = sorted(read, key=lambda other: sum(map(len, self.plan.positions[other])))
        if place in known:
            return (place,)
        wanted = self.positions([place])
        for other in known:
            if _holds(self.plan.positions[other], wanted):
                return (other,)
        return tuple(known) if _holds(self.positions(known), wanted) else ()

    def _states(self, found: Mapping[Position | None, list[Tensor]], wanted: Wanted) -> list[Tensor]:
        sources = [(self._sources(found, place), self.positions([place])) for place in wanted]
        each = [
            [
                _picked(torch.cat([found[one][row] for one in held]), 0, self.positions(held)[row], positions[row])
                for held, positions in sources
            ]
            for row in range(len(self.tokens))
        ]
        return [torch.cat(states) for states in each]

    def _holds_rows(self, place: AttentionSelection, query: tuple[Position, ...] | None, key: tuple[Position, ...] | None) -> bool:
        return (query is None or _holds(self.plan.queries[place], self.positions(query))) and (
            key is None or _holds(self.plan.keys[place], self.positions(key))
        )


def _resolved(place: Position | None, tokens: Sequence[TokenMap]) -> RowIndices:
    return tuple(tuple(range(len(row))) if place is None else row.resolve(place) for row in tokens)


def _holds(known: RowIndices, wanted: RowIndices) -> bool:
    return all(set(asked) <= set(have) for have, asked in zip(known, wanted, strict=True))


def _picked(values: Tensor, axis: int, known: Indices, wanted: Indices) -> Tensor:
    """The wanted positions of an axis that has the known ones, in the order wanted."""
    if known == wanted:
        return values
    places = {position: place for place, position in enumerate(known)}
    return values.index_select(axis, torch.tensor([places[position] for position in wanted], dtype=torch.long, device=values.device))


def attention_places(captured: Captured) -> list[AttentionSelection]:
    """The places of every attention read, each once."""
    return list(dict.fromkeys(place for _, place in captured.attention))


def place_name(place: Position | None) -> str:
    """A place, for messages."""
    if isinstance(place, Span):
        return repr(place.name) if place.name else f"positions {listed(place.positions)}"
    return "every position" if place is None else repr(place)


def place_names(read: Iterable[Position | None]) -> str:
    """Indices, for messages."""
    return ", ".join(dict.fromkeys(map(place_name, read))) or "nowhere"


def _side(value: tuple[Position, ...] | None) -> str:
    return "all" if value is None else " + ".join(map(place_name, value))


def described(known: Sequence[AttentionSelection]) -> str:
    """Attention reads, for messages."""
    return "; ".join(f"{_side(p.query)} to {_side(p.key)} (heads={p.heads})" for p in known) or "none"
