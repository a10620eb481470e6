"""The kinds of reads.

Layer numbers are Hugging Face's. `Hidden` and `Vision` count `hidden_states` (0 = embeddings, l = after l blocks), `Attention` counts
`attentions`, that is decoder blocks from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from probe.errors import InvalidRead
from probe.tracing.reads.base import LayerRead, Read
from probe.tracing.reads.positions import Layers, Positions, as_positions


@dataclass(frozen=True)
class Hidden(LayerRead):
    """Hidden states: `hidden_states[layer][:, at]` of Hugging Face.

    Args:
        layers: `hidden_states` indices (0 = embeddings, the last one is after the final norm, as in Hugging Face); "all" for every one.
            Negative numbers count from the end.
        at: positions; None for every position.

    >>> probe.Hidden(layers=range(7, 10), at="image")
    Hidden(layers=(7, 8, 9), at=('image',))
    """

    at: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "at", as_positions(self.at, "Hidden(at=...)"))

    def split(self) -> tuple[Hidden, ...]:
        """One read for each position."""
        return tuple(replace(self, at=position) for position in as_positions(self.at, "at") or (None,))


@dataclass(frozen=True)
class Attention(LayerRead):
    """Attention rows: `attentions[layer][:, :, query][..., key]` of a Hugging Face forward with eager attention.

    Args:
        layers: decoder blocks, counted from 0; "all" for every block that has attention.
        query: positions whose rows are read.
        key: positions whose columns are read; None for every position.
        heads: "all" keeps the heads, "mean" averages them while they are read (L x H times less memory held).

    >>> probe.Attention(layers="all", query="answer", key="image", heads="mean")
    Attention(layers='all', query=('answer',), key=('image',), heads='mean')
    """

    query: Positions
    key: Positions = None
    heads: Literal["all", "mean"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "query", as_positions(self.query, "Attention(query=...)"))
        object.__setattr__(self, "key", as_positions(self.key, "Attention(key=...)"))
        if self.heads not in ("all", "mean"):
            raise InvalidRead(f'Attention(heads={self.heads!r}): heads is "all" or "mean".')


@dataclass(frozen=True)
class Vision(LayerRead):
    """Vision tower states: the tower's `hidden_states[layer]`, patches only, in row-major order.

    Args:
        layers: the tower's `hidden_states` indices; negative ones count from the end (-2 is what LLaVA projects).

    >>> probe.Vision(layers=-2)
    Vision(layers=(-2,))
    """

    layers: Layers = (-1,)


@dataclass(frozen=True)
class Projected(Read):
    """Image tokens as the language model receives them: what `get_image_features` scatters into the embeddings.

    >>> probe.Projected()
    Projected()
    """


@dataclass(frozen=True)
class Logits(Read):
    """Next-token logits: `logits[:, at]` of Hugging Face. Row i predicts token i + 1.

    Args:
        at: positions; None for every position.

    >>> probe.Logits(at=-1)
    Logits(at=(-1,))
    """

    at: Positions = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_positions(self.at, "Logits(at=...)"))


READS: tuple[type[Read], ...] = (Hidden, Attention, Vision, Projected, Logits)
"""Every kind of read, for messages."""


def check_read(read: object) -> Read:
    """The read itself.

    Raises:
        InvalidRead: it is not a read; the message lists the kinds of reads.
    """
    if isinstance(read, Read):
        return read
    *kinds, last = (kind.__name__ for kind in READS)
    raise InvalidRead(f"Not a read: {read!r}. Reads are {', '.join(kinds)} and {last}.")


def merge(reads: Iterable[Read]) -> tuple[Read, ...]:
    """The fewest reads that cover all of these.

    Reads of equal positions become one read over the union of their layers.

    >>> probe.merge([probe.Hidden(range(2, 4), at="image"), probe.Hidden(range(3, 6), at="image")])
    (Hidden(layers=(2, 3, 4, 5), at=('image',)),)

    Raises:
        InvalidRead: something that is not a read.
    """
    merged: dict[tuple[object, ...], Read] = {}
    for read in reads:
        for part in check_read(read).split():
            known = merged.get(part.address())
            merged[part.address()] = part if known is None else known.merged_with(part)
    return tuple(merged.values())
