"""Safetensors files that are written from parts and read by mapping them into memory."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from probe.errors import DamagedStore

CODES = {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""Safetensors' names of the dtypes of a store."""

_DTYPES = {code: dtype for dtype, code in CODES.items()}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its dtype, its shape, and where its bytes begin, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """How many bytes it has."""
        return prod(self.shape) * self.dtype.itemsize


def header_of(tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The header of a file whose tensors follow each other in this order: its length, then JSON, to a multiple of eight bytes."""
    values: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, dtype, shape in tensors:
        end = start + prod(shape) * dtype.itemsize
        values[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_parts(file: IO[bytes], header: bytes, parts: Iterable[bytes | Path]) -> tuple[int, str]:
    """Write the header and the tensors' bytes, some of which lie in files; returns how many bytes that is, and their sha256."""
    digest, size = hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as hasher:
        hashed = hasher.submit(digest.update, b"")
        for chunk in _chunks(header, parts):
            hashed.result()  # one chunk is hashed while it is written and the next is read
            hashed = hasher.submit(digest.update, chunk)
            file.write(chunk)
            size += len(chunk)
        hashed.result()
    return size, digest.hexdigest()


def _chunks(header: bytes, parts: Iterable[bytes | Path]) -> Iterable[bytes]:
    yield header
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with part.open("rb") as source:
            while chunk := source.read(_CHUNK):
                yield chunk


class TensorFile:
    """A safetensors file, mapped into memory: only the pages that are looked at are read.

    Raises:
        DamagedStore: the file is missing, not of this length, or its header is no safetensors'.
    """

    def __init__(self, path: Path, size: int) -> None:
        try:
            found = path.stat().st_size
            if found != size:
                raise DamagedStore(
                    f"{str(path)!r} has {found} bytes, {size} were written: it is cut short, or another file. Get it again, or remove it "
                    "and its .json and collect again; the other shards can be read."
                )
            with path.open("rb") as file:
                # A private mapping: torch wants memory that may be written, and what is written there never reaches the file.
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise DamagedStore(f"{str(path)!r} cannot be read: {error.strerror or error}. The other shards can be read.") from error
        self.entries, self._data = _parsed(self._memory, path)

    def tensor(self, name: str, first: int = 0, stop: int | None = None) -> Tensor:
        """Rows `first` to `stop` of a tensor, without a copy."""
        entry = self.entries[name]
        stop = entry.shape[0] if stop is None else stop
        row = prod(entry.shape[1:])
        count = (stop - first) * row
        shape = (stop - first, *entry.shape[1:])
        if count == 0:
            return torch.empty(shape, dtype=entry.dtype)
        start = self._data + entry.start + first * row * entry.dtype.itemsize
        return torch.frombuffer(self._memory, dtype=entry.dtype, count=count, offset=start).view(shape)


def _parsed(memory: mmap.mmap, path: Path) -> tuple[Mapping[str, Entry], int]:
    """The tensors of a file, and where their bytes begin."""
    try:
        length = int.from_bytes(memory[:8], "little")
        values = json.loads(memory[8 : 8 + length])
        entries = {
            name: Entry(_DTYPES[one["dtype"]], tuple(one["shape"]), one["data_offsets"][0])
            for name, one in values.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{str(path)!r} has no header of a shard. Get the file again; the other shards can be read.") from error
    if any(8 + length + entry.start + entry.bytes > len(memory) for entry in entries.values()):
        raise DamagedStore(f"{str(path)!r} has a header of a longer file. Get the file again; the other shards can be read.")
    return entries, 8 + length


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
