"""ImageBatch: images whose part of the prompt runs through the model together."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from probe.errors import InvalidRead
from probe.inputs.encoding import Encoding, PreparedImages
from probe.many.joining import Joined, joined
from probe.many.parting import merged, parted
from probe.many.rows import RowWork, shapes
from probe.runtime import Batch, Runtime
from probe.sessions.kv_cache import empty_cache
from probe.sessions.opening import Opening
from probe.sessions.prefix import Prefix
from probe.sessions.prefixes import filling_forward, keep_captured, read_prefix, unread_prefix
from probe.tokens.equality import near
from probe.tracing.resolving import ReadPlan
from probe.tracing.slots import SequenceSlot


@dataclass(frozen=True, eq=False)
class PrefixRow:
    """An image's part of a prompt, before it is run.

    Attributes:
        encoding: the prompt that it begins.
        prefix: with an empty cache.
        plan: of what is kept of it.
        reason: why it shares no pass; "" if it may.
    """

    opening: Opening
    encoding: Encoding
    prefix: Prefix
    plan: ReadPlan
    reason: str

    @classmethod
    def of(cls, runtime: Runtime, opening: Opening, encoding: Encoding, length: int) -> PrefixRow:
        """The beginning of a prompt."""
        prefix, plan = unread_prefix(runtime, encoding, length, opening.keep)
        reason = runtime.backbone.alone_reason
        if any(type(layer) is not DynamicLayer for layer in prefix.cache.layers):
            reason = reason or "its cache has layers of other kinds than keys and values"
        return cls(opening, encoding, prefix, plan, reason)

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The arguments of Hugging Face's forward."""
        return self.prefix.inputs

    @property
    def batch(self) -> Batch:
        """The prefix as a batch of its own."""
        return Batch(self.inputs, (self.prefix.tokens,), (SequenceSlot(0),))

    def joins(self, other: PrefixRow) -> bool:
        """Whether it has the tokens of another one, and images of the same shape."""
        return not self.reason and self.prefix.tokens.ids == other.prefix.tokens.ids and shapes(self.inputs) == shapes(other.inputs)


class Prefixes(RowWork[PrefixRow, Prefix]):
    """Prefixes of several images with the same tokens and reads, run together."""

    name = "open"

    def alone(self, row: PrefixRow) -> Prefix:
        """See `RowWork.alone`."""
        return read_prefix(self.runtime, row.encoding, len(row.prefix), row.opening.keep)

    def joined(self, batch: Sequence[PrefixRow]) -> Joined:
        """See `RowWork.joined`."""
        return joined([row.inputs for row in batch], self.runtime)

    def kind(self, batch: Sequence[PrefixRow]) -> Hashable:
        """See `RowWork.kind`."""
        return bool(batch[0].plan.vision)

    def together(self, batch: Sequence[PrefixRow], joined: Joined, *, trusted: bool) -> list[Prefix] | str:
        """See `RowWork.together`."""
        runtime, plan, cache = self.runtime, merged([row.plan for row in batch]), empty_cache(self.runtime.model.config)
        forward, slots = filling_forward(runtime, cache), [SequenceSlot(row) for row in range(len(batch))]
        captured = runtime.engine.run(forward, joined.inputs, plan, slots, run_to_end=True)
        parts = parted(captured, runtime, [row.batch for row in batch])
        if parts is None:
            return "which states of the vision tower are whose is not known for its family"
        prefixes = []
        for number, (row, part) in enumerate(zip(batch, parts, strict=True)):
            position = runtime.backbone.next_position(runtime.model, len(row.prefix), number)
            prefixes.append(replace(row.prefix, cache=_row_of(cache, number), position=position, states={}, vision={}))
            keep_captured(prefixes[-1], part, row.plan)
        return prefixes

    def agrees(self, result: Prefix, row: PrefixRow) -> bool:
        """See `RowWork.agrees`."""
        alone = self.alone(row)
        pairs = [(result.states[key], states) for key, states in alone.states.items()]
        pairs += [(result.vision[layer], states) for layer, states in alone.vision.items()]
        for ours, theirs in zip(result.cache.layers, alone.cache.layers, strict=True):
            if theirs.keys is not None and theirs.values is not None:
                pairs += [(ours.keys, theirs.keys), (ours.values, theirs.values)]
        return result.position == alone.position and all(near(ours, theirs) for ours, theirs in pairs)


class ImageBatch:
    """Images whose part of the prompt runs through the model together.

    Sessions that are opened with it, of one image each and in the same way, share these passes: the first one that is asked runs the prefixes
    of all images of the batch whose tokens and shapes are its own; the others take theirs when they are asked. They then go on by themselves, and
    answer as they would alone. A pass that does not fit into memory is halved; one that fails is taken apart, and an image that is at fault
    says so in its own session. The first pass is compared with images alone; a warning says if they have to run one by one. Where rows
    of a batch change each other, or blocks hold states beside keys and values, every image runs by itself.

    Args:
        images: results of `Probe.prepare`; held, with what ran of them, until their sessions are asked.

    Raises:
        InvalidRead: something else was given.

    >>> prepared = [model.prepare(one) for one in (image, image.rotate(90))]
    >>> batch = probe.ImageBatch(prepared)
    >>> for one in prepared:
    ...     with model.open(one, together=batch) as session:
    ...         print(session.ask(["Is there a clock in the image?"], max_new_tokens=4)[0].text)
    No.
    No.
    """

    def __init__(self, images: Sequence[PreparedImages]) -> None:
        for image in images:
            if not isinstance(image, PreparedImages):
                raise InvalidRead(f"ImageBatch() takes what prepare() returned, got a {type(image).__name__}. Pass model.prepare(image).")
        self._images = list(images)
        self._openings: list[Opening] = []  # whose prefixes ran, or are about to run alone
        self._begun: list[tuple[Opening, Prefix]] = []  # that ran, and have not been taken

    def take(self, opening: Opening) -> Prefix | None:
        """The prefix of this image, opened so, if it ran with another one; it is given once."""
        found = next((one for one in self._begun if one[0].images is opening.images and one[0].is_like(opening)), None)
        if found is None:
            return None
        self._begun.remove(found)
        return found[1]

    def read(self, runtime: Runtime, opening: Opening, question: str, encoding: Encoding, length: int) -> Prefix | None:
        """Run the prefix of this image with those of the others that share its pass; None: it has to run alone. See `Session`."""
        rows = self._rows(runtime, opening, question, encoding, length)
        work, batcher = Prefixes(runtime), runtime.batcher("rows", "open")
        while len(rows) > 1:
            rows = rows[: batcher.fitting(length)]
            try:
                prefixes = batcher.attempt(rows, length, work.run)
            except Exception:  # one of them is at fault: alone each has its prefix, or says what is wrong with it
                self._images.clear()
                break
            if prefixes is not None:
                self._openings += [row.opening for row in rows]
                self._begun += [(row.opening, prefix) for row, prefix in zip(rows[1:], prefixes[1:], strict=True)]
                return prefixes[0]
        self._openings.append(opening)
        return None

    def _rows(self, runtime: Runtime, opening: Opening, question: str, encoding: Encoding, length: int) -> list[PrefixRow]:
        """This image's row, and those of the images that have not been read yet, opened in the same way, and can run with it; [] without any."""
        read = [one.images for one in self._openings if one.is_like(opening)]
        waiting = [images for images in self._images if images is not opening.images and not any(images is one for one in read)]
        if not waiting:
            return []
        rows = [PrefixRow.of(runtime, opening, encoding, length)]
        for images in waiting if not rows[0].reason else ():
            try:
                other = opening.of(images)
                row = PrefixRow.of(runtime, other, other.encode(question), length)
            except Exception:  # what is wrong with this image is said in its own session
                continue
            if row.joins(rows[0]):
                rows.append(row)
        return rows


def _row_of(cache: DynamicCache, row: int) -> DynamicCache:
    """One row of a cache of keys and values; it shares their memory."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in part.layers:
        if layer.keys is not None and layer.values is not None:
            layer.keys, layer.values = layer.keys[row : row + 1], layer.values[row : row + 1]
    return part
