"""Which part of a store a read is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from probe.errors import NotRead
from probe.store.format.manifest import StoredRead
from probe.store.reading.shard import Shard
from probe.tracing.activation import Activation
from probe.tracing.reads import LayerRead, Logits, Position, Read, StateRead, as_layers, as_positions, check_read

_PARTS = {"image": ("image ",), "video": ("video ", "frame ")}
"""A span -> what the names of its parts begin with."""


@dataclass(frozen=True)
class Selection:
    """A read, or a part of it, as it lies in a store.

    Attributes:
        number, stored: the read that was collected.
        layers: which of its layers.
        at: which of its positions; None: all of them.
    """

    number: int
    stored: StoredRead
    layers: tuple[int | None, ...]
    at: tuple[Position, ...] | None = None

    def of(self, shard: Shard, position: int) -> Activation:
        """An item's activation.

        Raises:
            NotRead: a position that was not collected.
            SpanNotFound: a span that the item does not have.
        """
        activation = shard.activation(position, self.number, self.stored, self.layers)
        if self.at is None:
            return activation
        tokens = shard.tokens(position)
        asked = [one for at in self.at for one in tokens.resolve(at)]
        known = {label: index for index, label in enumerate(activation.coords["token"])}
        missing = [one for one in asked if one not in known]
        if missing:
            raise NotRead(
                f"Position {missing[0]} of {shard.described.items[position]['id']!r} was not collected. Collected: {self.stored.as_read!r}."
            )
        part = activation.isel(token=[known[one] for one in asked])
        layout, reason = tokens.layout_or_reason(asked)
        return replace(part, layout=layout, no_grid_reason=reason)


def select(stored: Sequence[StoredRead], read: Read) -> Selection:
    """The part of a store that a read is.

    Raises:
        NotRead: it was not collected; the message lists what was.
    """
    check_read(read)
    found = [one for number, kept in enumerate(stored) if (one := _match(number, kept, read)) is not None]
    if not found:
        collected = "; ".join(f"{kept.as_read!r}{', pooled' if kept.pool else ''}" for kept in stored)
        raise NotRead(f"{read!r} was not collected. Collected: {collected}.")
    return min(found, key=lambda one: one.at is not None)  # one that is kept just so before a part of another


def _match(number: int, kept: StoredRead, read: Read) -> Selection | None:
    known = kept.as_read
    if type(known) is not type(read):
        return None
    layers = _layers(kept, read)
    others = [field.name for field in fields(read) if field.name not in ("layers", "at")]
    if layers is None or any(getattr(known, name) != getattr(read, name) for name in others):
        return None
    if getattr(known, "at", None) == getattr(read, "at", None):
        return Selection(number, kept, layers)
    if kept.pool is not None or not isinstance(read, (StateRead, Logits)):
        return None
    whole, at = as_positions(getattr(known, "at", None), "at"), as_positions(read.at, "at")
    return Selection(number, kept, layers, at) if at is not None and (whole is None or _may_hold(whole, at)) else None


def _may_hold(whole: Sequence[Position], at: Sequence[Position]) -> bool:
    """Whether positions may be among others: a name has to be, or to name a part of an image or a video that is. An item decides of numbers."""
    parts = tuple(beginning for name, beginnings in _PARTS.items() if name in whole for beginning in beginnings)
    return all(one in whole or not isinstance(one, str) or one.startswith(parts) for one in at)


def _layers(kept: StoredRead, read: Read) -> tuple[int | None, ...] | None:
    """The layers that a read names; None: some are not kept."""
    if not isinstance(read, LayerRead):
        return kept.layers
    named = as_layers(read.layers, "read")
    if named == "all" or read.layers == getattr(kept.as_read, "layers", None):
        return kept.layers
    numbers = tuple(layer % kept.depth if layer < 0 else layer for layer in named)
    return numbers if all(layer in kept.layers for layer in numbers) else None
