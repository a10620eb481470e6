"""What a worker does: plan a collection, and collect shards of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from probe.disk.hashing import hash_of_model
from probe.errors import OutputError, ProbeError
from probe.inputs.encoding import Encoding
from probe.model import Probe
from probe.store.collecting.extraction import Extracted, Pool, described, extract, store_dtype
from probe.store.collecting.items import Item, open_item_images, plain_labels
from probe.store.collecting.shard_writer import ShardWriter, Written
from probe.store.format.manifest import Manifest, StoredRead, hash_of
from probe.store.format.records import ItemRecord
from probe.store.format.tensor_file import bytes_of
from probe.tracing.reads import Read
from probe.tracing.trace import Trace
from probe.workers.prefetching import prefetch

Done = TypeVar("Done")

Template = str | Literal[False] | None
"""A chat template; None: the model's own; False: prompts are raw text."""

TRIED = 8
"""Items that a plan tries, before it is clear that not the items are at fault."""

_THREADS = 2
"""Threads that read and prepare the next images."""


@dataclass(frozen=True)
class Asked:
    """What a collection keeps of each item.

    Attributes:
        reads, pool: what is kept.
        dtype: of the values; None: as the model computes.
        batch: items that go through the model together.
        template: how prompts are written.
    """

    reads: tuple[Read, ...]
    pool: Pool
    dtype: str | None
    batch: int
    template: Template


@dataclass(frozen=True)
class Plan:
    """What is known of a collection once one item was read.

    Attributes:
        reads, dtype: as the manifest has them.
        item_bytes: what that item takes on the disk.
        model, model_hash: of which model.
        takes_images: whether it does.
    """

    reads: tuple[StoredRead, ...]
    dtype: str
    item_bytes: int
    model: Mapping[str, str | None]
    model_hash: str | None
    takes_images: bool


@dataclass(frozen=True)
class PlanJob:
    """To make a plan from the first of these items that can be read."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class ShardJob:
    """To collect a shard, or what is missing of it.

    Attributes:
        manifest, folder: of the store.
        shard: its number.
        items: all its items.
        retry_failed: do items that failed before the shard was finished again.
    """

    manifest: Manifest
    folder: Path
    shard: int
    items: tuple[Item, ...]
    retry_failed: bool = False


@dataclass(frozen=True)
class Progress:
    """Items that are done.

    Attributes:
        items: how many.
        bytes: what they take on the disk.
        failed: id -> error of those that failed.
    """

    items: int
    bytes: int
    failed: Mapping[str, str]


Job = PlanJob | ShardJob
Message = Plan | Progress


class Collector:
    """A worker with its model.

    Args:
        model: reads the activations.
        asked: what is kept of them.

    Raises:
        InvalidRead, InvalidLayer, NoAttention: the model has no such reads.
    """

    def __init__(self, model: Probe, asked: Asked) -> None:
        model.validate(asked.reads)
        self._model, self._asked = model, asked
        self._tried: dict[str, tuple[Encoding, Trace]] = {}  # by id: the item that was tried in planning, until it is collected

    def do(self, job: Job) -> Iterator[Message]:
        """Do a job: a plan, or the progress of a shard."""
        if isinstance(job, PlanJob):
            yield self._plan(job.items)
        else:
            yield from self._shard(job)

    def _plan(self, items: Sequence[Item]) -> Plan:
        asked, first_error = self._asked, None
        for item in items[:TRIED]:
            try:
                encoding = self._encode(item)[0]
                trace = self._model.run(encoding, asked.reads)
                reads, dtype = described(trace, asked.reads, asked.pool), store_dtype(trace, asked.reads, asked.dtype)
                size = extract(trace, asked.reads, reads, dtype, repr(item.id)).bytes
                self._tried = {item.id: (encoding, trace)}
            except ProbeError as error:
                first_error = first_error or error
                continue
            return Plan(reads, dtype, size, facts_of(self._model), hash_of_weights(self._model), takes_images(self._model))
        assert first_error is not None, "a collection has items"
        named = f"None of the first {min(TRIED, len(items))} items can be collected, such as {items[0].id!r}"
        raise type(first_error)(f"{named}. {first_error}") from first_error

    def _shard(self, job: ShardJob) -> Iterator[Progress]:
        with ShardWriter(job.folder, job.manifest, job.shard, retry_failed=job.retry_failed) as writer:
            done = len(writer.entries)
            if done:
                failed = _failed(writer.entries)
                yield Progress(done, writer.size, failed)
            size = self._asked.batch
            batches = [job.items[first : first + size] for first in range(done, len(job.items), size)]
            for batch, prepared in prefetch(self._prepared, batches, _THREADS):
                written = list(self._written(batch, prepared.result(), job.manifest, writer))
                grown = writer.append(written)
                yield Progress(len(batch), grown, _failed([one.entry for one in written]))
            writer.finish()

    def _prepared(self, batch: Sequence[Item]) -> list[tuple[Encoding, list[str]] | Exception]:
        return [_attempt(partial(self._encode, item)) for item in batch]

    def _encode(self, item: Item) -> tuple[Encoding, list[str]]:
        """The input of an item, and the hashes of its images."""
        images, digests = open_item_images(item)
        chat, template = self._asked.template is not False, self._asked.template or None
        encoding = self._model.encode(images, item.prompt, chat=chat, template=template)
        return encoding if item.answer is None else encoding.with_answer(item.answer), digests

    def _written(
        self, batch: Sequence[Item], prepared: Sequence[tuple[Encoding, list[str]] | Exception], manifest: Manifest, writer: ShardWriter
    ) -> Iterator[Written]:
        traces = self._traces([(item.id, one[0]) for item, one in zip(batch, prepared, strict=True) if not isinstance(one, Exception)])
        for item, one in zip(batch, prepared, strict=True):
            extracted = one if isinstance(one, Exception) else _attempt(partial(self._extracted, item, traces, manifest))
            if isinstance(one, Exception) or isinstance(extracted, Exception):
                yield _failure(item, extracted)
            else:
                yield _success(item, extracted, one[1], writer)

    def _extracted(self, item: Item, traces: Iterator[Trace], manifest: Manifest) -> Extracted:
        return extract(next(traces), self._asked.reads, manifest.reads, manifest.dtype, repr(item.id))

    def _traces(self, encodings: Sequence[tuple[str, Encoding]]) -> Iterator[Trace]:
        """The trace of each input of a batch. The iterator goes on after an error, which is raised in the turn of its input."""
        if self._asked.batch > 1:
            return self._model.run_many([encoding for _, encoding in encodings], self._asked.reads)
        return starmap(self._trace, encodings)

    def _trace(self, identifier: str, encoding: Encoding) -> Trace:
        tried = self._tried.pop(identifier, None)
        return tried[1] if tried and tried[0] == encoding else self._model.run(encoding, self._asked.reads)


def _attempt(work: Callable[[], Done]) -> Done | Exception:
    """What the work returns, or the error with which one item failed: it must not stop the others."""
    try:
        return work()
    except OutputError:
        raise
    except Exception as error:
        return error


def _failed(entries: Sequence[ItemRecord]) -> dict[str, str]:
    return {entry["id"]: entry["error"] for entry in entries if "error" in entry}


def _failure(item: Item, error: object) -> Written:
    return Written({"id": item.id, "labels": plain_labels(item), "error": f"{type(error).__name__}: {error}"}, memoryview(b""), {})


def _success(item: Item, extracted: Extracted, digests: Sequence[str], writer: ShardWriter) -> Written:
    entry: ItemRecord = {
        "id": item.id,
        "prompt": item.prompt,
        "answer": item.answer,
        "labels": plain_labels(item),
        "image": list(digests),
        "context": extracted.context(writer.interned),
    }
    ids = memoryview(np.asarray(extracted.tokens.ids, dtype=np.int32).tobytes())
    return Written(entry, ids, {name: bytes_of(value) for name, value in extracted.values.items()})


def takes_images(model: Probe) -> bool:
    """Whether each of a model's items needs an image."""
    return bool(model.modules.vision_blocks) or model.modules.image_token_id is not None


def facts_of(model: Probe) -> dict[str, str | None]:
    """Which model it is, by name, and how it prepares images."""
    config = model.model.config
    dtype = str(model.model.dtype).removeprefix("torch.")
    preparation = model.encoder.preparation
    return {
        "name": model.name,
        "revision": model.revision,
        "family": model.family,
        "dtype": dtype,
        "kernel": config._attn_implementation,
        "images": preparation.resize if preparation.tiles else f"{preparation.resize}, no tiles",
    }


def hash_of_weights(model: Probe) -> str:
    """A hash of the weights and of the configuration, wherever the model lies."""
    config = {name: value for name, value in model.model.config.to_dict().items() if name not in ("_name_or_path", "transformers_version")}
    return hash_of([hash_of_model(model.model), repr(sorted(config.items()))])
