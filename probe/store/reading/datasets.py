"""A store's rows for a DataLoader: by number, or shuffled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from probe.errors import InvalidRead
from probe.store.reading.matrix import row_counts, rows_of
from probe.store.reading.selection import select
from probe.tracing.reads import Read

if TYPE_CHECKING:
    from probe.store.reading.store import Store


class _Rows:
    """The rows of a read, shard by shard, opened when they are asked for."""

    def __init__(self, store: Store, read: Read) -> None:
        self._store, self._read = store, read
        self._selection = select(store.manifest.reads, read)
        counts = [row_counts(shard, self._selection) for shard in store.shards]
        self._starts = list(accumulate(map(sum, counts), initial=0))
        self._items = list(accumulate((len(one) for one in counts), initial=0))
        self._cached: dict[int, tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_cached": {}}  # tensors of mapped files would be sent as copies

    def of_shard(self, index: int) -> tuple[Tensor, Tensor]:
        """The rows of a shard, and for each its item's index."""
        if index not in self._cached:
            shard = self._store.shards[index]
            counts = torch.tensor(row_counts(shard, self._selection))
            owners = torch.repeat_interleave(torch.arange(len(counts)) + self._items[index], counts)
            self._cached[index] = rows_of(shard, self._selection), owners
        return self._cached[index]


class RowDataset(Dataset[tuple[Tensor, int]], _Rows):
    """The rows of a read, by number: (row, index of its item). Made by `Store.dataset`.

    Attributes:
        ids: of the items.
    """

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the items."""
        return self._store.ids

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Row {row} was asked for, there are {len(self)}.")
        number = row % len(self)
        shard = bisect_right(self._starts, number) - 1
        rows, owners = self.of_shard(shard)
        within = number - self._starts[shard]
        return rows[within], int(owners[within])


class ShuffledRows(IterableDataset[tuple[Tensor, Tensor]], _Rows):
    """The rows of a read in random order, in batches: (batch, feature), and the indices of their items. Made by `Store.shuffled`.

    Each worker of a DataLoader goes through its own pieces: runs of rows that lie together are read together. Every row comes once an epoch,
    in another order in each. The order depends on `seed`, and with workers also on their number and on torch's own seed.
    """

    PIECE = 512
    """Rows that are read together."""

    def __init__(self, store: Store, read: Read, batch: int, buffer: int, seed: int) -> None:
        if batch < 1 or buffer < batch:
            raise InvalidRead(f"batch={batch}, buffer={buffer}: a batch has at least one row, and the buffer holds at least a batch.")
        _Rows.__init__(self, store, read)
        self._batch, self._buffer, self._seed, self.epoch = batch, buffer, seed, 0

    @cached_property
    def _pieces(self) -> list[tuple[int, int, int]]:
        """Shard, first row and row behind the last of each piece."""
        return [
            (shard, first, min(first + self.PIECE, stop - start))
            for shard, (start, stop) in enumerate(zip(self._starts, self._starts[1:], strict=False))
            for first in range(0, stop - start, self.PIECE)
        ]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        # A worker process is made anew each epoch: what differs between epochs, and is the same for all workers, is the loader's base seed.
        turn = worker.seed - worker.id if worker else self.epoch
        self.epoch += 1
        generator = torch.Generator().manual_seed(self._seed + turn)
        order = torch.randperm(len(self._pieces), generator=generator).tolist()
        generator.manual_seed(self._seed + turn + 1 + number)
        held: list[tuple[Tensor, Tensor]] = []
        count = 0
        for piece in order[number::of]:
            shard, first, stop = self._pieces[piece]
            rows, owners = self.of_shard(shard)
            held.append((rows[first:stop], owners[first:stop]))
            count += stop - first
            if count >= self._buffer:
                yield from self._mixed(held, generator, keep=self._buffer // 2)
                count = sum(len(one) for _, one in held)
        yield from self._mixed(held, generator, keep=0)

    def _mixed(self, held: list[tuple[Tensor, Tensor]], generator: torch.Generator, keep: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from what is held, in random order, until so many rows are left, which stay held."""
        if not held:
            return
        rows, owners = (torch.cat(parts) for parts in zip(*held, strict=True))
        order = torch.randperm(len(owners), generator=generator)
        given = len(order) if keep == 0 else (len(order) - keep) // self._batch * self._batch
        for first in range(0, given, self._batch):
            chosen = order[first : min(first + self._batch, given)]
            yield rows[chosen], owners[chosen]
        rest = order[given:]
        held[:] = [(rows[rest], owners[rest])] if len(rest) else []
