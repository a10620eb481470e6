"""Reads of states at positions: hidden states, and the parts of a decoder block.

Layer numbers are Hugging Face's. `Hidden` counts `hidden_states` (0 = embeddings, l = after l blocks); the parts of a block count decoder
blocks from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from probe.tracing.reads.base import LayerRead, Read
from probe.tracing.reads.heads import Heads, as_heads
from probe.tracing.reads.positions import Positions, as_positions


@dataclass(frozen=True)
class StateRead(LayerRead):
    """A read of one state a position, at one or more layers.

    Args:
        layers: layer numbers, negative ones from the end; "all" for every layer.
        at: positions; None for every position.
    """

    at: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "at", as_positions(self.at, f"{type(self).__name__}(at=...)"))

    def split(self) -> tuple[Self, ...]:
        """One read for each position."""
        return tuple(replace(self, at=position) for position in as_positions(self.at, "at") or (None,))


@dataclass(frozen=True)
class Hidden(StateRead):
    """Hidden states: `hidden_states[layer][:, at]` of Hugging Face.

    Args:
        layers: `hidden_states` indices (0 = embeddings, the last one is after the final norm, as in Hugging Face); "all" for every one.
            Negative numbers count from the end.
        at: positions; None for every position.
        normed: False: the last one before the final norm, as the last block returns it.

    >>> probe.Hidden(layers=range(7, 10), at="image")
    Hidden(layers=(7, 8, 9), at=('image',), normed=True)
    """

    normed: bool = True


@dataclass(frozen=True)
class AttentionOutput(StateRead):
    """What the attention of a decoder block adds to the residual stream: (layer, batch, token, feature).

    It is the output of the attention module, or of the norm behind it in families that norm it before it is added (Gemma). A factor by which
    a family multiplies it (Granite) is not in it: `Backbone.residual_factors`.

    Args:
        layers: decoder blocks, counted from 0; "all" for every block that has attention.
        at: positions; None for every position.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.AttentionOutput(4, at=-1))
    >>> trace[probe.AttentionOutput(4, at=-1)]
    Activation(layer=1, batch=1, token=1, feature=128; float32)
    """


@dataclass(frozen=True)
class MLPOutput(StateRead):
    """What the MLP of a decoder block, or the sum of its experts, adds to the residual stream: (layer, batch, token, feature).

    Args:
        layers: decoder blocks, counted from 0; "all" for every block.
        at: positions; None for every position.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.MLPOutput([2, 3], at="image"))
    >>> trace[probe.MLPOutput(3, at="image")]
    Activation(layer=1, batch=1, token=196, feature=128; float32)
    """


@dataclass(frozen=True)
class HeadRead(StateRead):
    """A read of one state a head and a position.

    Args:
        layers: decoder blocks, counted from 0; "all" for every block that has attention.
        at: positions; None for every position.
        heads: head numbers, counted from 0; "all" for every head.
    """

    heads: Heads = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "heads", as_heads(self.heads, type(self).__name__))

    def address(self) -> tuple[object, ...]:
        """Reads of other heads at the same positions can be merged."""
        return (type(self), self.at)

    def merged_with(self, other: Read) -> Self:
        """The same read of the layers and the heads of both."""
        merged = super().merged_with(other)
        return replace(merged, heads=union_of_heads(self.heads, other.heads)) if isinstance(other, HeadRead) else merged


@dataclass(frozen=True)
class HeadOutput(HeadRead):
    """The input of the attention's output projection, head by head: (layer, batch, head, token, feature).

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.HeadOutput(4, at=-1, heads=1))
    >>> trace[probe.HeadOutput(4, at=-1, heads=1)]
    Activation(layer=1, batch=1, head=1, token=1, feature=64; float32)
    """


@dataclass(frozen=True)
class Queries(HeadRead):
    """Queries as the attention call gets them, after norm and rotary embedding: (layer, batch, head, token, feature).

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Queries(4, at=-1))
    >>> trace[probe.Queries(4, at=-1)]
    Activation(layer=1, batch=1, head=2, token=1, feature=64; float32)
    """


@dataclass(frozen=True)
class Keys(HeadRead):
    """Keys as the attention call gets them, after norm and rotary embedding: (layer, batch, head, token, feature).

    Of blocks that attend to the sequence alone: cross-attention has no keys of its positions. `heads` counts key-value heads, of which there are
    fewer than query heads where these are grouped.

    >>> probe.Keys(4, at="image")
    Keys(layers=(4,), at=('image',), heads='all')
    """


@dataclass(frozen=True)
class Values(HeadRead):
    """Values as the attention call gets them: (layer, batch, head, token, feature). `heads` counts key-value heads.

    >>> probe.Values(4, at="image", heads=1)
    Values(layers=(4,), at=('image',), heads=(1,))
    """


def union_of_heads(first: Heads, second: Heads) -> Heads:
    """All heads of both, sorted; "all" where one of them is "all"."""
    if isinstance(first, str) or isinstance(second, str):
        return "all"
    return tuple(sorted({*as_heads(first, "heads"), *as_heads(second, "heads")}))
