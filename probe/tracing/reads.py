"""Read requests: what to look at, said by name. Frozen, checked on construction, known before any forward.

Layer numbers are Hugging Face's. `Hidden` and `Vision` count `hidden_states` (0 = embeddings, l = after l blocks), `Attention` counts
`attentions`, that is decoder blocks from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from probe.errors import InvalidRead
from probe.tokens.integers import as_int, as_ints
from probe.tokens.spans import Span, shortened

Layers = int | Sequence[int] | Literal["all"]
"""One layer, several (a range, a list, an integer array), or all."""
Position = str | int | Span
"""One place in the sequence: a span's name, a position (negative ones count from the real end), or a Span."""
Positions = Position | Sequence[Position] | None
"""Positions read one after the other; None stands for every position."""


def _layers(layers: Layers, read: str) -> tuple[int, ...] | Literal["all"]:
    if isinstance(layers, str) and layers == "all":
        return "all"
    single = as_int(layers)
    checked = as_ints(layers) if single is None else (single,)
    if not checked:
        raise InvalidRead(f'{read}(layers={layers!r}): layers is a number, a non-empty range or list of numbers, or "all".')
    return tuple(dict.fromkeys(checked))


def places(value: Positions, read: str) -> tuple[Position, ...] | None:
    """A user's `at`, `query` or `key` as a tuple of places; None stays None."""
    if value is None:
        return None
    alone = isinstance(value, (str, int, Span)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0
    several: tuple[Any, ...] = (value,) if alone else tuple(value)  # type: ignore[arg-type]
    found = [place if isinstance(place, (str, Span)) else as_int(place) for place in several]
    if not found or None in found:
        got = shortened(repr(value), 200)
        raise InvalidRead(f"{read}: a place is a span's name, a Span, a position, a tuple of these, or None for all; got {got}.")
    return tuple(place for place in found if place is not None)


def _set(read: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(read, name, value)


@dataclass(frozen=True)
class Hidden:
    """Hidden states: `hidden_states[layer][:, at]` of Hugging Face.

    Args:
        layers: `hidden_states` indices (0 = embeddings, the last one is after the final norm, as in Hugging Face); "all" for every one.
            Negative numbers count from the end.
        at: places; None for every position.
    """

    layers: Layers
    at: Positions = None

    def __post_init__(self) -> None:
        _set(self, layers=_layers(self.layers, "Hidden"), at=places(self.at, "Hidden(at=...)"))


@dataclass(frozen=True)
class Attention:
    """Attention rows: `attentions[layer][:, :, query][..., key]` of a Hugging Face forward with eager attention.

    Args:
        layers: decoder blocks, counted from 0; "all" for every block that has attention.
        query: whose rows.
        key: which columns; None for every position.
        heads: "all" keeps them, "mean" averages them as they are read (L x H times less memory held).
    """

    layers: Layers
    query: Positions
    key: Positions = None
    heads: Literal["all", "mean"] = "all"

    def __post_init__(self) -> None:
        _set(
            self,
            layers=_layers(self.layers, "Attention"),
            query=places(self.query, "Attention(query=...)"),
            key=places(self.key, "Attention(key=...)"),
        )
        if self.heads not in ("all", "mean"):
            raise InvalidRead(f'Attention(heads={self.heads!r}): heads is "all" or "mean".')


@dataclass(frozen=True)
class Vision:
    """Vision tower states: the tower's `hidden_states[layer]`, patches only, in row-major order.

    Args:
        layers: the tower's `hidden_states` indices; negative ones count from the end (-2 is what LLaVA projects).
    """

    layers: Layers = field(default=(-1,))

    def __post_init__(self) -> None:
        _set(self, layers=_layers(self.layers, "Vision"))


@dataclass(frozen=True)
class Projected:
    """Image tokens as the language model receives them: what `get_image_features` scatters into the embeddings."""


@dataclass(frozen=True)
class Logits:
    """Next-token logits: `logits[:, at]` of Hugging Face. Row i predicts token i + 1."""

    at: Positions = None

    def __post_init__(self) -> None:
        _set(self, at=places(self.at, "Logits(at=...)"))


Read = Hidden | Attention | Vision | Projected | Logits


def _union(first: Any, second: Any) -> Layers:
    return "all" if "all" in (first, second) else tuple(sorted({*first, *second}))


def merge(reads: Iterable[Read]) -> tuple[Read, ...]:
    """The fewest reads that cover all of these: equal places share one read over the union of their layers."""
    merged: dict[Any, Read] = {}
    for read in reads:
        match read:
            case Hidden(layers, at):
                for place in places(at, "at") or (None,):
                    key: Any = (Hidden, place)
                    known = merged.get(key)
                    merged[key] = Hidden(_union(known.layers, layers) if isinstance(known, Hidden) else layers, place)
            case Attention(layers, query, columns, heads):
                key = (Attention, query, columns, heads)
                known = merged.get(key)
                merged[key] = Attention(_union(known.layers, layers) if isinstance(known, Attention) else layers, query, columns, heads)
            case Vision(layers):
                known = merged.get(Vision)
                merged[Vision] = Vision(_union(known.layers, layers) if isinstance(known, Vision) else layers)
            case Projected() | Logits():
                merged[read] = read
            case _:
                raise InvalidRead(f"Not a read: {read!r}. Reads are Hidden, Attention, Vision, Projected and Logits.")
    return tuple(merged.values())
