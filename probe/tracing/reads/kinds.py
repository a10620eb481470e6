"""The other kinds of reads: attention rows, the vision tower, projected tokens, logits, and any module as it is.

Layer numbers are Hugging Face's. `Vision` counts the tower's `hidden_states` (0 = embeddings, l = after l blocks), `Attention` counts
`attentions`, that is decoder blocks from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from probe.errors import InvalidRead
from probe.tracing.reads.base import LayerRead, Read
from probe.tracing.reads.heads import Heads, as_heads
from probe.tracing.reads.positions import Layers, Positions, as_positions
from probe.tracing.reads.states import AttentionOutput, HeadOutput, Hidden, Keys, MLPOutput, Queries, Values


@dataclass(frozen=True)
class Attention(LayerRead):
    """Attention rows: `attentions[layer][:, :, query][..., key]` of a Hugging Face forward with eager attention.

    Args:
        layers: decoder blocks, counted from 0; "all" for every block that has attention.
        query: positions whose rows are read.
        key: positions whose columns are read; None for every position.
        heads: "all" keeps the heads, numbers keep these, "mean" averages them while they are read (L x H times less memory held).

    >>> probe.Attention(layers="all", query="answer", key="image", heads="mean")
    Attention(layers='all', query=('answer',), key=('image',), heads='mean')
    """

    query: Positions
    key: Positions = None
    heads: Heads = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "query", as_positions(self.query, "Attention(query=...)"))
        object.__setattr__(self, "key", as_positions(self.key, "Attention(key=...)"))
        object.__setattr__(self, "heads", as_heads(self.heads, "Attention", mean=True))


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


@dataclass(frozen=True)
class VisionAttention(LayerRead):
    """Attention rows of the vision tower, image by image: (layer, batch, head, query, key).

    Equals `attentions[layer]` of the tower under eager attention. Positions are those of the tower's own sequence: class tokens first where
    the tower has them.

    Args:
        layers: the tower's blocks, counted from 0; "all" for every block.
        query, key: "class", "patches", or numbers of tokens in the tower's sequence; None for every one.
        heads: as in `Attention`.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.VisionAttention(2, query=[0], key=None))
    >>> trace[probe.VisionAttention(2, query=[0], key=None)]
    Activation(layer=1, batch=1, head=3, query=1, key=197; float32)
    """

    query: Positions = None
    key: Positions = None
    heads: Heads = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "query", as_positions(self.query, "VisionAttention(query=...)"))
        object.__setattr__(self, "key", as_positions(self.key, "VisionAttention(key=...)"))
        object.__setattr__(self, "heads", as_heads(self.heads, "VisionAttention", mean=True))


@dataclass(frozen=True)
class Module(Read):
    """What any module takes or returns, as it is: the first tensor of several.

    Args:
        path: as in `model.model.get_submodule(path)`.
        side: "output", or "input" for its first argument.
        at: positions, for a tensor (batch, token, feature) of the whole sequence; None: the whole tensor, whatever its axes are.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Module("model.multi_modal_projector"))
    >>> trace[probe.Module("model.multi_modal_projector")].data.shape
    torch.Size([1, 196, 128])
    """

    path: str
    side: Literal["input", "output"] = "output"
    at: Positions = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or self.side not in ("input", "output"):
            raise InvalidRead(f'Module({self.path!r}, side={self.side!r}): a module path, and side="input" or "output".')
        object.__setattr__(self, "at", as_positions(self.at, "Module(at=...)"))


READS: tuple[type[Read], ...] = (
    Hidden,
    Attention,
    AttentionOutput,
    MLPOutput,
    HeadOutput,
    Queries,
    Keys,
    Values,
    Vision,
    VisionAttention,
    Projected,
    Module,
    Logits,
)
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


def as_reads(reads: Iterable[Read] | Read) -> list[Read]:
    """One read or several, as a list.

    Raises:
        InvalidRead: none.
    """
    asked = list(reads) if isinstance(reads, Iterable) else [reads]
    if not asked:
        raise InvalidRead("No reads were given. Name some, such as probe.Hidden(layers=[7], at='image').")
    return asked


def merge(reads: Iterable[Read]) -> tuple[Read, ...]:
    """The fewest reads that cover all of these.

    Reads of equal positions become one read over the union of their layers.

    >>> probe.merge([probe.Hidden(range(2, 4), at="image"), probe.Hidden(range(3, 6), at="image")])
    (Hidden(layers=(2, 3, 4, 5), at=('image',), normed=True),)

    Raises:
        InvalidRead: something that is not a read.
    """
    merged: dict[tuple[object, ...], Read] = {}
    for read in reads:
        for part in check_read(read).split():
            known = merged.get(part.address())
            merged[part.address()] = part if known is None else known.merged_with(part)
    return tuple(merged.values())
