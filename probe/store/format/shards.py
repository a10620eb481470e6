"""The two files of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.errors import DamagedStore
from probe.store.format.checked_json import read_checked
from probe.store.format.records import ContextRecord, ItemRecord, LayoutRecord, TensorsRecord

_KEYS = ("shard", "tensors", "layouts", "contexts", "items")


def tensors_path(folder: Path, number: int) -> Path:
    """The shard's safetensors file."""
    return folder / f"shard-{number:05}.safetensors"


def items_path(folder: Path, number: int) -> Path:
    """The shard's JSON file. The shard is finished once it exists."""
    return folder / f"shard-{number:05}.json"


@dataclass(frozen=True)
class ShardItems:
    """What the JSON file of a shard says; docs/store.md explains the fields."""

    shard: int
    tensors: TensorsRecord
    layouts: list[LayoutRecord]
    contexts: list[ContextRecord]
    items: list[ItemRecord]


def read_items(folder: Path, number: int) -> ShardItems:
    """The JSON file of a shard.

    Raises:
        DamagedStore, StoreMismatch: see `read_checked`.
    """
    path = items_path(folder, number)
    values: dict[str, Any] = read_checked(path)
    missing = [key for key in _KEYS if key not in values]
    if missing or values["shard"] != number:
        raise DamagedStore(f"{str(path)!r} is not of shard {number}, or lacks {missing}. Get the file again.")
    return ShardItems(**{key: values[key] for key in _KEYS})
