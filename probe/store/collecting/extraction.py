"""From a trace to what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.errors import InvalidRead, NotFinite, SpanNotFound
from probe.store.format.contexts import Interned
from probe.store.format.manifest import DTYPES, StoredRead, column
from probe.store.format.read_values import values_of_read
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation
from probe.tracing.reads import Hidden, LayerRead, Read, Vision, VisionAttention
from probe.tracing.trace import Trace

POOLED = ("token", "query")
"""The axes that a pool is over."""

Pool = str | None


@dataclass(frozen=True)
class Extracted:
    """What is kept of one item.

    Attributes:
        tokens: of its sequence.
        reads: the activation of each read at its first layer, without the `layer` axis; None of what is kept in `values`.
        values: tensor of values -> the item's, contiguous, in the store's dtype, on the CPU.
    """

    tokens: TokenMap
    reads: tuple[Activation, ...]
    values: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """What the item takes on the disk, its JSON left out."""
        return sum(value.nbytes for value in self.values.values()) + 4 * len(self.tokens) + 8 * (len(self.reads) + 1)

    def context(self, interned: Interned) -> int:
        """The number of the item's context."""
        return interned.context(self.tokens, self.reads)


def check_pool(pool: object) -> None:
    """Check the name of a pool.

    Raises:
        InvalidRead: there is no such pool.
    """
    if pool not in (None, "mean"):
        raise InvalidRead(f"pool={pool!r}: 'mean', over the positions of each read, or None, which keeps every position.")


def pooled(activation: Activation, name: str) -> Activation:
    """The mean over the positions of an activation, in float32; itself where it has no axis of positions.

    Raises:
        SpanNotFound: there is no position.
    """
    axes = [dim for dim in POOLED if dim in activation.dims]
    if any(activation.shape[dim] == 0 for dim in axes):
        raise SpanNotFound(
            f"{name}: the positions of {activation!r} are none, and a mean of nothing is no value. Read another span, or every position."
        )
    return activation.mean(*axes) if axes else activation


def extract(trace: Trace, reads: Sequence[Read], stored: Sequence[StoredRead], dtype: str, name: str) -> Extracted:
    """What is kept of the trace of one sequence.

    Raises:
        SpanNotFound: a pool of no position.
        NotFinite: a value that is finite and not so in the store's dtype.
        InvalidRead: an activation that has other axes than those of the first item.
    """
    firsts, values = [], {}
    for number, (read, kept) in enumerate(zip(reads, stored, strict=True)):
        activation = _kept_of(trace[read], kept.pool, f"{name}, {read!r}")
        data = _converted(activation.data, dtype, f"{name}, {read!r}")
        layered = kept.layers != (None,)
        first = activation.isel(layer=0) if layered else activation
        width = first.data.shape[-1] if first.dims[-1:] == ("feature",) else None
        if first.dims != kept.dims or width != kept.width:
            raise InvalidRead(
                f"{name}, {read!r}: {first!r}, where the first item has axes {', '.join(kept.dims)} and {kept.width} features."
            )
        for index, layer in enumerate(kept.layers):
            values[column(number, layer)] = (data[index] if layered else data).contiguous()
        firsts.append(first)
    (tokens,) = trace.tokens
    return Extracted(tokens, tuple(firsts), values)


def described(trace: Trace, reads: Sequence[Read], pool: Pool) -> tuple[StoredRead, ...]:
    """How the reads of a collection are kept, seen from one trace."""
    return tuple(_described(trace, read, pool) for read in reads)


def _described(trace: Trace, read: Read, pool: Pool) -> StoredRead:
    whole = trace[read]
    activation = _kept_of(whole, pool, repr(read))
    layers: tuple[int | None, ...] = tuple(activation.coords.get("layer", ())) or (None,)
    dims = tuple(dim for dim in activation.dims if dim != "layer")
    depth = 0
    if isinstance(read, LayerRead):
        tower = {Vision: trace.vision_layout.depth, VisionAttention: trace.vision_layout.depth - 1}
        depth = tower.get(type(read), trace.depth[0] if isinstance(read, Hidden) else trace.depth[1])
    return StoredRead(
        read=values_of_read(read),
        pool="mean" if pool == "mean" and any(dim in whole.dims for dim in POOLED) else None,
        layers=layers,
        depth=depth,
        dims=dims,
        width=activation.data.shape[-1] if dims[-1:] == ("feature",) else None,
        heads=activation.coords.get("head"),
        normed=activation.normed,
    )


def store_dtype(trace: Trace, reads: Sequence[Read], dtype: str | None) -> str:
    """The dtype of a store: the one that was asked for, or the widest of what was read."""
    if dtype is not None:
        return dtype
    kinds = {trace[read].data.dtype for read in reads}
    widest = kinds.pop() if len(kinds) == 1 else torch.float32
    return next((name for name, known in DTYPES.items() if known == widest), "float32")


def check_dtype(dtype: object) -> None:
    """Check the name of a dtype.

    Raises:
        InvalidRead: a store has no such values.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InvalidRead(f"dtype={dtype!r}: a store keeps {', '.join(DTYPES)}; None: as the model computes.")


def _kept_of(activation: Activation, pool: Pool, name: str) -> Activation:
    return pooled(activation, name) if pool == "mean" else activation


def _converted(data: Tensor, dtype: str, name: str) -> Tensor:
    converted = data.detach().to(DTYPES[dtype])
    if converted.dtype != data.dtype and bool((converted.isinf() & data.isfinite()).any()):
        raise NotFinite(
            f"{name}: values up to {float(data.abs().max()):.3g} are beyond {dtype}. Collect with dtype='bfloat16' or 'float32'."
        )
    return converted.cpu()
