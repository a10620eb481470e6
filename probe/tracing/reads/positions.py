"""Layers and positions as users write them, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from probe.errors import InvalidRead
from probe.tokens.integers import as_int, as_ints
from probe.tokens.spans import Span, shortened
from probe.tracing.activation.indexing import listed

Layers = int | Sequence[int] | Literal["all"]
"""One layer, several (a range, a list, an integer array), or all."""
Position = str | int | Span
"""A position in the sequence: a span's name, a token's number (negative ones count from the last token that is no padding), or a Span."""
Positions = Position | Sequence[Position] | None
"""Positions, read in the order given; None stands for every position."""


def as_layers(layers: Layers, read: str) -> tuple[int, ...] | Literal["all"]:
    """Layer numbers as a tuple, each once; "all" stays "all".

    Args:
        read: name of the read, for messages.

    Raises:
        InvalidRead: not layer numbers.
    """
    if isinstance(layers, str) and layers == "all":
        return "all"
    single = as_int(layers)
    numbers = as_ints(layers) if single is None else (single,)
    if not numbers:
        raise InvalidRead(f'{read}(layers={layers!r}): layers is a number, a non-empty range or list of numbers, or "all".')
    return tuple(dict.fromkeys(numbers))


def as_positions(positions: Positions, argument: str) -> tuple[Position, ...] | None:
    """A user's `at`, `query` or `key` as a tuple; None stays None.

    Args:
        argument: for messages, such as "Hidden(at=...)".

    Raises:
        InvalidRead: not positions.
    """
    if positions is None:
        return None
    alone = isinstance(positions, (str, int, Span)) or not isinstance(positions, Iterable) or getattr(positions, "ndim", 1) == 0
    given: tuple[Any, ...] = (positions,) if alone else tuple(positions)  # type: ignore[arg-type]
    checked = [position if isinstance(position, (str, Span)) else as_int(position) for position in given]
    if not checked or None in checked:
        got = shortened(repr(positions), 200)
        raise InvalidRead(f"{argument}: a position is a span's name, a number, a Span, a tuple of these, or None for all; got {got}.")
    return tuple(position for position in checked if position is not None)


def position_name(position: Position | None) -> str:
    """A position, for messages."""
    if isinstance(position, Span):
        return repr(position.name) if position.name else f"positions {listed(position.positions)}"
    return "every position" if position is None else repr(position)


def position_names(positions: Iterable[Position | None]) -> str:
    """Positions, each once, for messages."""
    return ", ".join(dict.fromkeys(map(position_name, positions)))


def union_of_layers(first: Layers, second: Layers) -> Layers:
    """All layers of both, sorted; "all" where one of them is "all"."""
    if first == "all" or second == "all":
        return "all"
    return tuple(sorted({*_tuple(first), *_tuple(second)}))


def _tuple(layers: int | Sequence[int]) -> tuple[int, ...]:
    return (layers,) if isinstance(layers, int) else tuple(layers)
