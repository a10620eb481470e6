"""The manifest of a store: what was collected, from which model, and how it is divided into shards."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch

from probe.disk.hashing import hash_of_values
from probe.errors import DamagedStore, StoreMismatch
from probe.store.format.checked_json import read_checked, write_checked
from probe.store.format.read_values import read_of_values
from probe.tracing.reads import Read

MANIFEST = "manifest.json"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtypes of a store's values."""

PACKAGES = ("fseg-llava", "torch", "transformers", "nnsight", "numpy", "pillow")
"""Packages whose version affects a value."""


@dataclass(frozen=True)
class StoredRead:
    """How a read is kept.

    Attributes:
        read: the read's plain values.
        pool: "mean": over the read's positions; None: every position is kept.
        layers: the layers; (None,) of a read without layers.
        depth: how many layers of its kind the model has; 0 of a read without layers.
        dims: the axes of one item's activation at one layer.
        width: the length of the axis `feature`, if that is the last one.
        heads: the numbers of the heads, if there is an axis of them that has numbers.
        normed: for each layer whether its hidden states are after the final norm; None: not hidden states.
    """

    read: Mapping[str, object]
    pool: Literal["mean"] | None
    layers: tuple[int | None, ...]
    depth: int
    dims: tuple[str, ...]
    width: int | None
    heads: tuple[int, ...] | None
    normed: tuple[bool, ...] | None

    @property
    def as_read(self) -> Read:
        """The read itself."""
        return read_of_values(self.read)

    def rows(self, shape: Sequence[int]) -> int:
        """How many rows an activation of this shape has: vectors along `feature`, or single numbers."""
        rows = 1
        for size in shape[:-1] if self.width is not None else shape:
            rows *= size
        return rows


@dataclass(frozen=True)
class Manifest:
    """What a store holds; docs/store.md explains the fields.

    Two collections with equal manifests have equal stores, but for the bytes of their images.
    """

    reads: tuple[StoredRead, ...]
    dtype: str
    items: int
    items_per_shard: int
    batch: int
    template: str | Literal[False] | None
    model: Mapping[str, str | None]
    hashes: Mapping[str, str | None]
    versions: Mapping[str, str]

    @property
    def shards(self) -> int:
        """How many shards the whole store has."""
        return ceil(self.items / self.items_per_shard)

    def items_of(self, shard: int) -> range:
        """The numbers of a shard's items."""
        return range(shard * self.items_per_shard, min((shard + 1) * self.items_per_shard, self.items))

    def columns(self) -> dict[str, tuple[int, int | None]]:
        """Tensor of values -> the number of its read and its layer."""
        return {column(number, layer): (number, layer) for number, read in enumerate(self.reads) for layer in read.layers}

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "shards": self.shards}

    def write(self, folder: Path) -> None:
        """Write the file.

        Raises:
            OutputError: it cannot be written.
        """
        write_checked(folder / MANIFEST, self.to_dict())


def _stored_read(values: dict[str, Any]) -> StoredRead:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return StoredRead(**given)


def column(read: int, layer: int | None) -> str:
    """The name of the tensor of a read's values at a layer."""
    return f"r{read}" if layer is None else f"r{read}.l{layer}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises:
        DamagedStore, StoreMismatch: see `read_checked`.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    values: dict[str, Any] = read_checked(path)
    try:
        reads = tuple(_stored_read(read) for read in values.pop("reads"))
        values = {name: value for name, value in values.items() if name not in ("format", "version", "shards")}
        return Manifest(reads=reads, **values)
    except (TypeError, AttributeError, KeyError) as error:
        raise DamagedStore(f"{str(path)!r} lacks what a store's manifest has ({error}). Get the file again.") from error


def check_same(folder: Path, stored: Manifest, requested: Mapping[str, object]) -> None:
    """Refuse to go on with a store of another collection.

    Args:
        requested: values of the new collection's manifest, all or some.

    Raises:
        StoreMismatch: the two differ; the message shows how.
    """
    have, want = _flat(stored.to_dict()), _flat(requested)
    differing = [name for name in want if have.get(name) != want[name]]
    if differing:
        shown = "".join(f"\n  {name}: {have.get(name)} stored, {want[name]} requested" for name in differing[:8])
        raise StoreMismatch(f"{str(folder)!r} holds another collection:{shown}\nCollect into a new folder.")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect a value."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hash_of(values: object) -> str:
    """A hash of plain values."""
    return hash_of_values({"": values})


def _flat(values: object, path: str = "") -> dict[str, object]:
    """The leaves of nested values, by their path; lists of plain values are leaves."""
    if isinstance(values, Mapping):
        inner = [(f"{path}.{name}" if path else str(name), value) for name, value in values.items()]
    elif isinstance(values, (list, tuple)) and any(isinstance(value, Mapping) for value in values):
        inner = [(f"{path}.{number}", value) for number, value in enumerate(values)]
    else:
        return {path: list(values) if isinstance(values, tuple) else values}
    return {name: leaf for one, value in inner for name, leaf in _flat(value, one).items()}
