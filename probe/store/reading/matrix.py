"""Arrays of many items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import InvalidRead, NotRead, PackageNeeded, SpanNotFound
from probe.store.reading.selection import Selection
from probe.store.reading.shard import Shard
from probe.tracing.activation import Activation

if TYPE_CHECKING:
    import xarray

_POOLED = ("token", "query")


def matrix_of(shards: Sequence[Shard], selection: Selection, pool: Literal["mean"] | None) -> NDArray[np.generic]:
    """See `Store.matrix`."""
    if pool not in (None, "mean"):
        raise InvalidRead(f"pool={pool!r}: 'mean', over the positions of each item, or None.")
    _only_layer(selection)
    if pool == "mean" and selection.stored.pool is None:
        rows = [_pooled(selection.of(shard, position), shard, position) for shard in shards for position in shard.good]
        return _array(_stacked(rows))
    return _joined([part for shard in shards if (part := rows_of(shard, selection)).numel()] or [torch.empty(0, 0)])


def rows_of(shard: Shard, selection: Selection) -> Tensor:
    """What a shard adds to a matrix: (row, feature), or (item, value) of items of one shape each; a view of the file if it may be one."""
    layer, stored = _only_layer(selection), selection.stored
    if selection.at is not None:
        parts = [selection.of(shard, position).data for position in shard.good]
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]) if parts else torch.empty(0, stored.width or 0)
    if stored.pool is None and stored.dims == ("batch", "token", "feature"):
        return shard.rows(selection.number, layer)
    shapes = {tuple(shard.context(position)["reads"][selection.number]["shape"]) for position in shard.good}
    if not shapes:
        return torch.empty(0, 0)
    if len(shapes) > 1:
        raise NotRead(
            f"Items have {stored.as_read!r} in shapes such as {' and '.join(map(str, sorted(shapes)[:2]))}, which form no array. Pool it with "
            "pool='mean', or take each item's own from store[read][id]."
        )
    return shard.rows(selection.number, layer).reshape(len(shard.good), -1)


def owners_of(shards: Sequence[Shard], selection: Selection) -> NDArray[np.int64]:
    """See `Store.owners`."""
    counts = [count for shard in shards for count in row_counts(shard, selection)]
    return np.repeat(np.arange(len(counts)), counts)


def row_counts(shard: Shard, selection: Selection) -> list[int]:
    """How many rows of a matrix each good item of a shard has."""
    if selection.at is not None:
        return [selection.of(shard, position).data.shape[-2] for position in shard.good]
    if selection.stored.pool is not None or selection.stored.dims != ("batch", "token", "feature"):
        return [1] * len(shard.good)
    offsets = shard.offsets(f"r{selection.number}")
    return [offsets[position + 1] - offsets[position] for position in shard.good]


def xarray_of(matrix: NDArray[np.generic], ids: Sequence[str], labels: Mapping[str, NDArray[np.generic]]) -> xarray.DataArray:
    """See `Store.to_xarray`."""
    try:
        import xarray
    except ModuleNotFoundError as error:
        raise PackageNeeded("to_xarray() needs xarray, which is not installed: pip install 'fseg-llava[xarray]'.") from error
    if len(matrix) != len(ids):
        raise NotRead(f"{len(matrix)} rows of {len(ids)} items: pass pool='mean', or take store[read][id].to_xarray() of one item.")
    coords = {name: ("item", values) for name, values in labels.items() if values.ndim == 1}
    return xarray.DataArray(matrix, dims=("item", "feature"), coords={"item": list(ids), **coords})


def _only_layer(selection: Selection) -> int | None:
    if len(selection.layers) != 1:
        raise NotRead(f"A matrix is of one layer, and {selection.stored.as_read!r} has {', '.join(map(str, selection.layers))}. Name one.")
    return selection.layers[0]


def _pooled(activation: Activation, shard: Shard, position: int) -> Tensor:
    axes = [dim for dim in _POOLED if dim in activation.dims]
    if any(activation.shape[dim] == 0 for dim in axes):
        raise SpanNotFound(
            f"{shard.described.items[position]['id']!r} has no position there, and a mean of nothing is no value. Leave it out."
        )
    return (activation.mean(*axes).data if axes else activation.data.float()).reshape(-1)


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    if len({row.shape for row in rows}) > 1:
        raise NotRead(
            "Items have this read in different shapes, pooled too, which form no array. Take each item's own from store[read][id]."
        )
    return torch.stack(list(rows)) if rows else torch.empty(0, 0)


def _joined(parts: Sequence[Tensor]) -> NDArray[np.generic]:
    """The parts below each other; a single one as it is."""
    if len({part.shape[1] for part in parts}) > 1:
        raise NotRead("Items have this read in different shapes, which form no array. Take each item's own from store[read][id].")
    if len(parts) == 1:
        return _array(parts[0])
    arrays = [_array(part) for part in parts]
    whole = np.empty((sum(map(len, arrays)), arrays[0].shape[1]), dtype=arrays[0].dtype)
    return np.concatenate(arrays, out=whole)


def _array(tensor: Tensor) -> NDArray[np.generic]:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
