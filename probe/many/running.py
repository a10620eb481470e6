"""run_many: the traces of many inputs, in order, from padded batches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from probe.inputs.encoding import Encoding
from probe.many.joining import IDS, Joined, joined, kind_of
from probe.many.ordered import Prepared
from probe.many.parting import merged, parted
from probe.many.rows import RowWork
from probe.runtime import Batch, Runtime
from probe.sessions.prefix import max_rope_length
from probe.tokens.equality import near
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import Edit
from probe.tracing.reads import Module, Read, Vision, VisionAttention
from probe.tracing.resolving import ReadPlan
from probe.tracing.slots import SequenceSlot
from probe.tracing.trace import Trace

Inputs = Encoding | Mapping[str, Tensor]


@dataclass(frozen=True)
class Planned:
    """An input and its resolved reads.

    Attributes:
        reason: why it shares no batch; "" if it may.
    """

    batch: Batch
    plan: ReadPlan
    reason: str

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The arguments of Hugging Face's forward."""
        return self.batch.inputs


class Runs(RowWork[Planned, Trace]):
    """Runs of many inputs with the same reads and edits: see `Probe.run_many`."""

    name = "run_many"

    def __init__(self, runtime: Runtime, reads: Sequence[Read], edits: Sequence[Edit]) -> None:
        super().__init__(runtime)
        self._reads, self._edits = reads, edits

    def prepare(self, item: Inputs) -> Prepared[Planned]:
        """The input with its reads resolved, and the edits checked against it."""
        runtime = self.runtime
        batch = runtime.batch(item)
        plan = runtime.resolve(self._reads, batch.tokens)
        runtime.resolve_edits(self._edits, batch.tokens)
        lengths = [len(tokens) for tokens in batch.tokens]
        lengths += [batch.inputs["input_ids"].shape[1]] if "input_ids" in batch.inputs else []
        reason = runtime.backbone.alone_reason or _reason(runtime, batch, plan, self._edits)
        kind = None if reason else kind_of(batch.inputs, runtime.backbone)
        return Prepared(Planned(batch, plan, reason), max(lengths, default=1), kind)

    def alone(self, row: Planned) -> Trace:
        """See `RowWork.alone`."""
        return self.runtime.run(row.batch, self._reads, self._edits)

    def joined(self, batch: Sequence[Planned]) -> Joined:
        """See `RowWork.joined`."""
        return joined([row.inputs for row in batch], self.runtime)

    def kind(self, batch: Sequence[Planned]) -> Hashable:
        """See `RowWork.kind`."""
        return bool(batch[0].plan.vision)

    def together(self, batch: Sequence[Planned], joined: Joined, *, trusted: bool) -> list[Trace] | str:
        """See `RowWork.together`."""
        runtime, tokens = self.runtime, [tokens for row in batch for tokens in row.batch.tokens]
        plan, changes = merged([row.plan for row in batch]), runtime.resolve_edits(self._edits, tokens)
        slots = [SequenceSlot(row) for row in range(len(batch))]
        captured = runtime.engine.run(runtime.forward, joined.inputs, plan, slots, edits=changes)
        parts = parted(captured, runtime, [row.batch for row in batch])
        if parts is None:
            return "which states of the vision tower are whose is not known for its family"
        return [runtime.trace(row.batch.tokens, part, row.plan) for row, part in zip(batch, parts, strict=True)]

    def agrees(self, result: Trace, row: Planned) -> bool:
        """See `RowWork.agrees`."""
        return _nearly_equal(result.captured, self.alone(row).captured)


def _reason(runtime: Runtime, batch: Batch, plan: ReadPlan, edits: Sequence[Edit]) -> str:
    """Why an input shares no batch because of what it is, or of what is read or edited; "" if it may."""
    if plan.modules:
        return f"{plan.modules[0]!r} is read, of which it is not known which part is whose"
    if plan.vision_attention:
        return "the vision tower's attention is read, which is not told apart by inputs"
    if any(isinstance(edit.read, (Vision, VisionAttention, Module)) for edit in edits):
        return "edits of the vision tower or of a module change a whole forward"
    if batch.slots != (SequenceSlot(0),) or _is_padded(runtime, batch):
        return "an input has several rows, or padding"
    if len(batch.tokens[0]) > max_rope_length(runtime.model.config):
        return "an input is longer than the model's rotary frequencies are fixed for"
    return ""


def _is_padded(runtime: Runtime, batch: Batch) -> bool:
    ids = next((batch.inputs[name] for name in reversed(IDS) if name in batch.inputs), None)
    return ids is not None and len(batch.tokens[0]) != ids.shape[1] + runtime.backbone.leading(runtime.model, batch.inputs)


def _nearly_equal(ours: Captured, theirs: Captured) -> bool:
    """Whether two captures of one sequence agree."""
    pairs = [
        (mine, other)
        for name in ("states", "attention", "logits")
        for key, rows in getattr(theirs, name).items()
        for mine, other in zip(getattr(ours, name)[key], rows, strict=True)
    ]
    pairs += [(ours.vision[state], value) for state, value in theirs.vision.items()]
    return all(near(mine, other) for mine, other in pairs)
