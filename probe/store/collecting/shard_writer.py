"""Writing a shard: items are appended to files beside a journal, and whoever continues after a kill takes what the journal vouches for."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch

from probe.disk import strict_json
from probe.errors import OutputError, RunLocked
from probe.store.format.checked_json import write_checked
from probe.store.format.contexts import Interned
from probe.store.format.manifest import DTYPES, Manifest
from probe.store.format.records import ContextRecord, ItemRecord, LayoutRecord
from probe.store.format.shards import items_path, tensors_path
from probe.store.format.tensor_file import bytes_of, header_of, write_parts

TOKENS = "tokens"
PATIENCE = 10.0
"""Seconds that a writer waits for a killed one of the same shard to be gone."""

_CHUNK = 1 << 20


def work_folder(folder: Path, shard: int) -> Path:
    """Where a shard is written before it is finished."""
    return folder / f".probe-shard-{shard:05}"


@dataclass(frozen=True)
class Written:
    """One item as it is appended.

    Attributes:
        entry: what the shard's JSON says of it.
        ids: its token ids.
        values: tensor of values -> its bytes.
    """

    entry: ItemRecord
    ids: memoryview
    values: Mapping[str, memoryview]


class ShardWriter:
    """Writes one shard, or goes on with it where an earlier process ended. One process writes a shard at a time.

    Attributes:
        interned: layouts and contexts of the items so far.
        entries: what the shard's JSON will say of the items so far.

    Raises:
        OutputError: the folder cannot be written.
        RunLocked: another process writes the shard.
    """

    def __init__(self, folder: Path, manifest: Manifest, shard: int, *, retry_failed: bool = False) -> None:
        self._retry_failed = retry_failed
        self._folder, self._manifest, self._shard = folder, manifest, shard
        self._work = work_folder(folder, shard)
        self._names = (TOKENS, *manifest.columns())
        self._files: dict[str, IO[bytes]] = {}
        try:
            self._work.mkdir(exist_ok=True)
            self._journal = (self._work / "journal.jsonl").open("a+b")
            _lock(self._journal, self._work)
            self._files = {name: (self._work / f"{name}.bin").open("a+b") for name in self._names}
            self._recover()
        except OSError as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._journal, *self._files.values()):
            file.close()

    @property
    def size(self) -> int:
        """How many bytes the items so far take."""
        return sum(self._lengths.values())

    def append(self, items: Sequence[Written]) -> int:
        """Append the items of a batch; returns how many bytes these are.

        Raises:
            OutputError: the disk is full. What was appended before stays.
        """
        before = self.size
        try:
            for item in items:
                for name, content in {TOKENS: item.ids, **item.values}.items():
                    self._files[name].write(content)
                    self._lengths[name] += len(content)
                    self._crcs[name] = zlib.crc32(content, self._crcs[name])
            for file in self._files.values():
                file.flush()
            line = {
                "items": [item.entry for item in items],
                "layouts": self.interned.layouts[self._noted[0] :],
                "contexts": self.interned.contexts[self._noted[1] :],
                "files": [[self._lengths[name], self._crcs[name]] for name in self._names],
            }
            self._journal.write(strict_json.dump(line) + b"\n")
            self._journal.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._take(line)
        return self.size - before

    def finish(self) -> None:
        """Write the two files of the shard, once all its items were appended.

        Raises:
            OutputError: the disk is full. What was appended stays.
        """
        counts = [self._rows_of(entry) for entry in self.entries]
        offsets = {
            name: torch.tensor(list(accumulate((count[name] for count in counts), initial=0)), dtype=torch.int64)
            for name in (*(f"r{number}" for number in range(len(self._manifest.reads))), TOKENS)
        }
        tensors: list[tuple[str, torch.dtype, Sequence[int]]] = [
            (f"{name}.offsets", torch.int64, value.shape) for name, value in offsets.items()
        ]
        tensors.append((TOKENS, torch.int32, (int(offsets[TOKENS][-1]),)))
        for name, (number, _) in self._manifest.columns().items():
            width, rows = self._manifest.reads[number].width, int(offsets[f"r{number}"][-1])
            tensors.append((name, DTYPES[self._manifest.dtype], (rows,) if width is None else (rows, width)))
        parts: list[bytes | Path] = [
            *(bytes(bytes_of(value)) for value in offsets.values()),
            *(self._work / f"{name}.bin" for name in self._names),
        ]
        try:
            size, digest = self._put_together(header_of(tensors), parts)
        except OSError as error:
            raise self._cannot_write(error) from error
        values = {
            "shard": self._shard,
            "tensors": {"bytes": size, "sha256": digest},
            "layouts": self.interned.layouts,
            "contexts": self.interned.contexts,
            "items": self.entries,
        }
        write_checked(items_path(self._folder, self._shard), values)
        shutil.rmtree(self._work, ignore_errors=True)

    def _put_together(self, header: bytes, parts: Sequence[bytes | Path]) -> tuple[int, str]:
        """Write the tensors into one file; returns how many bytes it has, and their sha256. What a kill leaves of it lies in the work folder."""
        path = self._work / "shard.safetensors"
        with path.open("wb") as file:
            size, digest = write_parts(file, header, parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, tensors_path(self._folder, self._shard))
        return size, digest

    def _rows_of(self, entry: ItemRecord) -> dict[str, int]:
        """How many rows an item has in each tensor."""
        if "error" in entry:
            return {TOKENS: 0, **{f"r{number}": 0 for number in range(len(self._manifest.reads))}}
        context = self.interned.contexts[entry["context"]]
        reads = enumerate(zip(self._manifest.reads, context["reads"], strict=True))
        return {TOKENS: context["tokens"], **{f"r{number}": read.rows(kept["shape"]) for number, (read, kept) in reads}}

    def _recover(self) -> None:
        """Take the lines of the journal that the files bear out, and cut off the rest."""
        self.entries: list[ItemRecord] = []
        self.interned = Interned()
        self._lengths, self._crcs = dict.fromkeys(self._names, 0), dict.fromkeys(self._names, 0)
        self._noted = (0, 0)
        end = 0
        self._journal.seek(0)
        layouts: list[LayoutRecord] = []
        contexts: list[ContextRecord] = []
        for text in self._journal:
            line = _line_of(text)
            failed = line is not None and any("error" in entry for entry in line["items"])
            if line is None or (failed and self._retry_failed) or not self._holds(line["files"]):
                break
            layouts, contexts = [*layouts, *line["layouts"]], [*contexts, *line["contexts"]]
            self.entries += line["items"]
            self._lengths, self._crcs = ({name: one[i] for name, one in zip(self._names, line["files"], strict=True)} for i in (0, 1))
            end += len(text)
        self.interned, self._noted = Interned.of(layouts, contexts), (len(layouts), len(contexts))
        os.truncate(self._journal.name, end)
        for name, file in self._files.items():
            os.truncate(file.name, self._lengths[name])
        self._journal.seek(0, os.SEEK_END)

    def _holds(self, files: Sequence[Sequence[int]]) -> bool:
        """Whether the files have the bytes that a line tells of, beyond those of the lines before it."""
        for name, (length, crc) in zip(self._names, files, strict=True):
            file, found, left = self._files[name], self._crcs[name], length - self._lengths[name]
            file.seek(self._lengths[name])
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                found, left = zlib.crc32(chunk, found), left - len(chunk)
            if left or found != crc:
                return False
        return True

    def _take(self, line: Mapping[str, Any]) -> None:
        self.entries += line["items"]
        self._noted = (len(self.interned.layouts), len(self.interned.contexts))

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(
            f"{str(self._work)!r} cannot be written: {error.strerror or error}. What is finished is kept; free some space and start again to go on."
        )


def _line_of(text: bytes) -> dict[str, Any] | None:
    """A line of the journal; None if it was torn."""
    try:
        line = strict_json.load(text) if text.endswith(b"\n") else None
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() == {"items", "layouts", "contexts", "files"} else None


def _lock(file: IO[bytes], work: Path) -> None:
    """Hold the journal. The kernel frees it when this process ends, however it ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RunLocked(f"Another process writes {str(work)!r}. Wait for it, or end it.") from error
        time.sleep(0.05)
