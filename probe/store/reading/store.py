"""Store: activations on disk, read in part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from probe.disk import strict_json
from probe.errors import DamagedStore, NotRead, StoreMismatch
from probe.store.format.manifest import MANIFEST, Manifest, read_manifest
from probe.store.format.shards import items_path
from probe.store.reading.checking import problems_of
from probe.store.reading.datasets import RowDataset, ShuffledRows
from probe.store.reading.matrix import matrix_of, owners_of, xarray_of
from probe.store.reading.selection import Selection, select
from probe.store.reading.shard import Shard
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation
from probe.tracing.reads import Read

if TYPE_CHECKING:
    import xarray


class StoredActivations(Mapping[str, Activation]):
    """The activations of one read, by the ids of the items: `store[read]["cat-1"]`.

    Each is read from the disk when it is asked for, and nothing else is: one item at one layer is a view of the mapped file.

    Raises:
        NotRead: from `[id]`, if no such item was collected.
        DamagedStore: from `[id]`, if the item's shard is damaged.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store, self._selection = store, selection

    def __getitem__(self, item_id: str) -> Activation:
        shard, position = self._store.find(item_id)
        return self._selection.of(shard, position)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._store.positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.ids)

    def __len__(self) -> int:
        return len(self._store.ids)

    def __repr__(self) -> str:
        return f"StoredActivations({len(self)} items; {self._selection.stored.as_read!r})"


class Store:
    """Activations of many items on disk, as `collect` wrote them. Opened by `open_store`; can be pickled and sent to another process.

    What cannot be read, because a file of it is damaged, is named in `damaged`, and the rest can be.

    Attributes:
        folder: where it lies.
        manifest: what was collected, and how.
        shards: those that are finished, in order.
        damaged: number of a shard whose JSON is damaged -> the error.

    >>> items = [probe.Item(str(seed), fseg.glyphs.scene(seed).image, "Is there a cat?", labels={"seed": seed}) for seed in range(3)]
    >>> store = probe.collect(model, items, probe.Hidden([3, 4], at="image"), to="kept", pool="mean")
    >>> store.ids, store.labels["seed"].tolist()
    (('0', '1', '2'), [0, 1, 2])
    >>> store.matrix(probe.Hidden(4, at="image")).shape
    (3, 128)
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.shards: list[Shard] = []
        self.damaged: dict[int, DamagedStore] = {}
        for number in range(manifest.shards):
            if not items_path(folder, number).is_file():
                continue
            try:
                self.shards.append(Shard(folder, number))
            except DamagedStore as error:
                self.damaged[number] = error

    def __reduce__(self) -> tuple[object, ...]:
        return open_store, (str(self.folder),)

    def __repr__(self) -> str:
        reads = "; ".join(repr(read) for read in self.reads)
        pool = ", pooled" if any(read.pool for read in self.manifest.reads) else ""
        missing = f", {len(self.missing)} more missing" if self.missing else ""
        return f"Store({len(self.ids)} items in {len(self.shards)} shard{'' if len(self.shards) == 1 else 's'}{missing}, {self.manifest.dtype}{pool}; {reads})"

    @property
    def reads(self) -> tuple[Read, ...]:
        """What was collected."""
        return tuple(read.as_read for read in self.manifest.reads)

    @cached_property
    def positions(self) -> Mapping[str, tuple[Shard, int]]:
        """id -> the shard of an item that did not fail, and its position there, in the order of the items."""
        return MappingProxyType(
            {shard.described.items[position]["id"]: (shard, position) for shard in self.shards for position in shard.good}
        )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of all items that did not fail, in order: of the rows of `matrix` and of the values of `labels`."""
        return tuple(self.positions)

    @property
    def failed(self) -> dict[str, str]:
        """id -> error of the items that failed."""
        return {item["id"]: item["error"] for shard in self.shards for item in shard.described.items if "error" in item}

    @property
    def missing(self) -> tuple[int, ...]:
        """The shards that are not finished, or damaged."""
        known = {shard.number for shard in self.shards}
        return tuple(number for number in range(self.manifest.shards) if number not in known)

    @cached_property
    def labels(self) -> Mapping[str, NDArray[np.generic]]:
        """Label -> the value of each item, in the order of `ids`: (item), or (item, value) of labels with several values."""
        kept = [shard.described.items[position]["labels"] for shard, position in self.positions.values()]
        return MappingProxyType({name: np.array([labels[name] for labels in kept]) for name in (kept[0] if kept else {})})

    @property
    def data_hash(self) -> str:
        """A hash of the ids and the images of all items that did not fail."""
        images = [[item_id, shard.described.items[position]["image"]] for item_id, (shard, position) in self.positions.items()]
        return hashlib.sha256(strict_json.dump(images)).hexdigest()

    def __getitem__(self, read: Read) -> StoredActivations:
        """The activations of a read that was collected, or of a part of it: fewer layers, or spans within its positions.

        Raises:
            NotRead: it was not collected; the message lists what was.
        """
        return StoredActivations(self, select(self.manifest.reads, read))

    def find(self, item_id: str) -> tuple[Shard, int]:
        """The shard of an item, and its position there.

        Raises:
            NotRead: no such item, or it failed; the message says so.
        """
        if item_id not in self.positions:
            failed = self.failed.get(item_id)
            reason = f"it failed: {failed}" if failed else f"it has {len(self.ids)} items, such as {', '.join(map(repr, self.ids[:3]))}"
            damaged = f" Damaged: {'; '.join(map(str, self.damaged.values()))}" if self.damaged else ""
            raise NotRead(f"No item {item_id!r} in {str(self.folder)!r}: {reason}.{damaged}")
        return self.positions[item_id]

    def tokens(self, item_id: str) -> TokenMap:
        """The tokens of an item, by name; their text needs the model's tokenizer.

        Raises:
            NotRead: no such item.
        """
        shard, position = self.find(item_id)
        return shard.tokens(position)

    def matrix(self, read: Read, pool: Literal["mean"] | None = None) -> NDArray[np.generic]:
        """One read at one layer as an array for scikit-learn; bfloat16, which NumPy lacks, becomes float32.

        Args:
            pool: "mean" over the positions of each item, in float32, unless it was collected so. None: as it was collected.

        Returns:
            (item, feature) of what is pooled, in the order of `ids`; else (row, feature) of every position of every item, whose items `owners`
            names. Values without an axis `feature`, such as attention rows, are laid out as (item, value). Of one shard it is the
            mapped file itself, without a copy.

        Raises:
            NotRead: it was not collected, several layers, or items of different shapes that do not form an array.
            SpanNotFound: a pool of an item without positions.
            DamagedStore: a shard is damaged. `intact()` is the store without it.
        """
        return matrix_of(self.shards, select(self.manifest.reads, read), pool)

    def owners(self, read: Read) -> NDArray[np.int64]:
        """For each row of `matrix(read)` the item that it is of: an index into `ids`."""
        return owners_of(self.shards, select(self.manifest.reads, read))

    def dataset(self, read: Read) -> RowDataset:
        """The rows of `matrix(read)` as a torch Dataset: `dataset[i]` is (row, index of its item in `ids`)."""
        return RowDataset(self, read)

    def shuffled(self, read: Read, *, batch: int = 256, buffer: int = 16384, seed: int = 0) -> ShuffledRows:
        """The same rows in random order, in batches, for `DataLoader(store.shuffled(read), batch_size=None, num_workers=N)`.

        Args:
            batch: rows of a batch.
            buffer: rows that are mixed at a time: each worker goes through its shards in random order, through each in random pieces, and
                mixes what it has in this buffer.
            seed: of the order, which is another one in each epoch.
        """
        return ShuffledRows(self, read, batch, buffer, seed)

    def to_xarray(self, read: Read, pool: Literal["mean"] | None = None) -> xarray.DataArray:
        """`matrix(read, pool)` as an `xarray.DataArray` with the axes (item, feature), the ids, and the labels as coordinates of `item`.

        Raises:
            PackageNeeded: xarray is not installed.
            NotRead: it has more rows than items; pool it.
        """
        return xarray_of(self.matrix(read, pool), self.ids, self.labels)

    def intact(self) -> Store:
        """The store without the shards that are damaged."""
        sound = Store(self.folder, self.manifest)
        sound.shards = [shard for shard in sound.shards if not problems_of(self.folder, shard, content=False)]
        return sound

    def check(self) -> list[str]:
        """What is wrong with the store, a line each: shards that are missing or damaged. Reads every byte.

        >>> items = [probe.Item("a", fseg.glyphs.scene(1).image, "Is there a cat?")]
        >>> probe.collect(model, items, probe.Hidden(4, at=-1), to="checked").check()
        []
        """
        damaged = [str(error) for error in self.damaged.values()]
        absent = [f"Shard {number} is not there. Start the collection again." for number in self.missing if number not in self.damaged]
        return [*damaged, *absent, *(line for shard in self.shards for line in problems_of(self.folder, shard, content=True))]


def open_store(folder: str | PathLike[str]) -> Store:
    """A store that `collect` wrote, finished or not. Its tensors are mapped into memory when they are asked for.

    >>> items = [probe.Item("a", fseg.glyphs.scene(1).image, "Is there a cat?")]
    >>> _ = probe.collect(model, items, probe.Hidden(4, at="image"), to="opened")
    >>> probe.open_store("opened")[probe.Hidden(4, at="image")]["a"].shape["token"]
    196

    Raises:
        StoreMismatch: the folder is no store, or one of another version of the format.
        DamagedStore: its manifest is damaged.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest is None:
        raise StoreMismatch(f"{str(path)!r} is no store: it has no {MANIFEST}. Name a folder that probe.collect() wrote.")
    return Store(path, manifest)
