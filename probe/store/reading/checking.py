"""Whether a shard has the bytes that were written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from probe.errors import DamagedStore
from probe.store.format.shards import tensors_path
from probe.store.reading.shard import Shard


def problems_of(folder: Path, shard: Shard, *, content: bool) -> list[str]:
    """What is wrong with a shard's tensors.

    Args:
        content: compare all bytes, not just how many there are.
    """
    try:
        _ = shard.file
    except DamagedStore as error:
        return [str(error)]
    if not content:
        return []
    path = tensors_path(folder, shard.number)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.described.tensors["sha256"]:
        return [f"{str(path)!r} does not have the bytes that were written. Remove it and its .json, and collect again."]
    return []
