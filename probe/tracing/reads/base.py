"""What every read request can do: say what it reads apart from its layers, and be merged with others."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

from probe.tracing.reads.positions import Layers, as_layers, union_of_layers


@dataclass(frozen=True)
class Read:
    """A read request: frozen, checked when it is written, resolved before any forward.

    A new kind of read is a dataclass derived from `Read` or `LayerRead`, a resolver in `probe.tracing.resolving`, and what
    `probe.tracing.capturing.capture` does at its module.

    >>> isinstance(probe.Hidden(layers=3), probe.Read)
    True
    """

    def split(self) -> tuple[Self, ...]:
        """The smallest reads that together read the same."""
        return (self,)

    def address(self) -> tuple[object, ...]:
        """What is read, apart from the layers: reads with equal addresses can be merged."""
        return (type(self), *(getattr(self, field.name) for field in fields(self) if field.name != "layers"))

    def merged_with(self, other: Read) -> Self:
        """One read for this one and another one with the same address."""
        return self


@dataclass(frozen=True)
class LayerRead(Read):
    """A read at one or more layers.

    Args:
        layers: layer numbers, negative ones from the end; "all" for every layer.
    """

    layers: Layers

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers, type(self).__name__))

    def merged_with(self, other: Read) -> Self:
        """The same read at the layers of both."""
        return replace(self, layers=union_of_layers(self.layers, other.layers)) if isinstance(other, LayerRead) else self
