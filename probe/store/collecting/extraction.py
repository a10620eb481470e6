"""From a trace to what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probe.errors import InvalidRead, NotFinite, SpanNotFound
from probe.store.format.contexts import Interned
from probe.store.format.manifest import DTYPES, StoredRead, column
from probe.store.format.read_values import values_of_read
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation
from probe.tracing.capturing.finite import is_finite
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
        InvalidRead: an activation that has other axes than those of the first item, or another shape than that of the first layer.
        NotRead: the item has no such layer.
    """
    firsts, values = list[Activation](), dict[str, Tensor]()
    for number, (read, kept) in enumerate(zip(reads, stored, strict=True)):
        of_read = f"{name}, {read!r}"
        for layer in kept.layers:  # one by one, so that the states of all layers are not held twice
            activation = _at_layer(trace, read, layer, kept.pool, of_read)
            width = activation.data.shape[-1] if activation.dims[-1:] == ("feature",) else None
            if activation.dims != kept.dims or width != kept.width:
                raise InvalidRead(
                    f"{of_read}: {activation!r}, where the first item has axes {', '.join(kept.dims)} and {kept.width} features."
                )
            if number == len(firsts):
                firsts.append(activation)
            if activation.shape != firsts[number].shape:
                raise InvalidRead(
                    f"{of_read}: layer {layer} is {activation!r}, the first one {firsts[number]!r}. Collect them as reads of their own."
                )
            values[column(number, layer)] = _converted(activation.data, dtype, of_read).contiguous()
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


def _at_layer(trace: Trace, read: Read, layer: int | None, pool: Pool, name: str) -> Activation:
    """What is kept of a read at one layer, without the `layer` axis; None: the read has no layers."""
    if layer is None or not isinstance(read, LayerRead):
        return _kept_of(trace[read], pool, name)
    return _kept_of(trace[replace(read, layers=(layer,))], pool, name).isel(layer=0)


def _converted(data: Tensor, dtype: str, name: str) -> Tensor:
    converted = data.detach().to(DTYPES[dtype])
    if converted.dtype != data.dtype and _overflows(data.detach(), DTYPES[dtype]):
        raise NotFinite(
            f"{name}: values up to {float(data.abs().max()):.3g} are beyond {dtype}. Collect with dtype='bfloat16' or 'float32'."
        )
    return converted.cpu()


def _overflows(data: Tensor, dtype: torch.dtype) -> bool:
    """Whether a finite value becomes infinite. Rounding is monotonic, so that the smallest and the largest tell."""
    if not data.numel():
        return False
    ends = torch.stack(torch.aminmax(data))
    if not is_finite(ends):  # the model's own infinity, such as the logit of a banned token
        ends = data[data.isfinite()]
    return not is_finite(ends.to(dtype))
