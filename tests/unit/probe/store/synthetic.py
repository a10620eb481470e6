"""Stores without a model: items whose values are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from probe.store.collecting.extraction import Extracted
from probe.store.collecting.shard_writer import ShardWriter, Written
from probe.store.format.manifest import Manifest, StoredRead, versions
from probe.store.format.read_values import values_of_read
from probe.store.format.records import ItemRecord
from probe.store.format.tensor_file import bytes_of
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.spans import TokenMap, image_spans
from probe.tracing.activation import Activation
from probe.tracing.reads import Hidden

READ = Hidden([2, 4], at="image")
WIDTH = 3


def manifest(items: int, per_shard: int, pool: str | None = None, dtype: str = "float32") -> Manifest:
    dims = ("batch", "feature") if pool else ("batch", "token", "feature")
    read = StoredRead(values_of_read(READ), "mean" if pool else None, (2, 4), 5, dims, WIDTH, None, (False, True))
    return Manifest(
        (read,), dtype, items, per_shard, 1, None, {"name": "none", "family": "llava", "dtype": "float32", "kernel": "sdpa"}, {}, versions()
    )


def value(number: int, layer: int, pool: str | None = None) -> torch.Tensor:
    """An item's activation at a layer: of item 3, the rows 3.0, 3.1, 3.2...; an item has as many image tokens as its number says."""
    tokens = tokens_of(number)
    rows = number + layer * 100 + torch.arange(tokens)[:, None] / 10 + torch.zeros(WIDTH)
    return rows.mean(0)[None] if pool else rows[None]


def tokens_of(number: int) -> int:
    return 2 * (1 + number % 3)


def written(number: int, writer: ShardWriter, pool: str | None = None) -> Written:
    """Item `number`, with one row of image cells for each two of its tokens. Every seventh fails."""
    if number % 7 == 6:
        return Written({"id": f"item-{number}", "labels": {"number": number}, "error": "ImageError: none"}, memoryview(b""), {})
    tokens = tokens_of(number)
    positions = tuple(range(1, 1 + tokens))
    layout = ImageLayout((Grid.whole(tokens // 2, 2, (10, 20)),))
    named = TokenMap(tuple(range(tokens + 3)), (positions,), (layout,), image_spans([positions]), family="llava")
    values = {f"r0.l{layer}": value(number, layer, pool).contiguous() for layer in (2, 4)}
    dims = ("batch", "feature") if pool else ("batch", "token", "feature")
    coords = {} if pool else {"token": positions}
    first = Activation(values["r0.l2"], dims, coords, layout=None if pool else layout, no_grid_reason="a mean" if pool else "")
    context = Extracted(named, (first,), values).context(writer.interned)
    entry: ItemRecord = {
        "id": f"item-{number}",
        "prompt": "?",
        "answer": None,
        "labels": {"number": number},
        "image": [f"{number}"],
        "context": context,
    }
    ids = memoryview(np.arange(tokens + 3, dtype=np.int32).tobytes())
    return Written(entry, ids, {name: bytes_of(one.to(torch.float32)) for name, one in values.items()})


def write_shard(folder: Path, of: Manifest, shard: int, pool: str | None = None) -> None:
    """Write a shard, or go on with it."""
    numbers = of.items_of(shard)
    with ShardWriter(folder, of, shard) as writer:
        for number in numbers[len(writer.entries) :]:
            writer.append([written(number, writer, pool)])
        writer.finish()


def write_store(folder: Path, items: int, per_shard: int, pool: str | None = None) -> Manifest:
    of = manifest(items, per_shard, pool)
    folder.mkdir(exist_ok=True)
    of.write(folder)
    for shard in range(of.shards):
        write_shard(folder, of, shard, pool)
    return of
