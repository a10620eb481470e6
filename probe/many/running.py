"""run_many: the traces of many inputs, in order, from padded batches."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probe.inputs.encoding import Encoding
from probe.many.joining import joined, kind_of, padding_id
from probe.many.ordered import Prepared
from probe.many.parting import merged, parted
from probe.runtime import Batch, Runtime
from probe.sessions.prefix import max_rope_length
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
        reason: why it shares no batch; "" if it can.
    """

    batch: Batch
    plan: ReadPlan
    reason: str


@dataclass
class Findings:
    """What batches of one model have shown.

    Attributes:
        exact: kinds of batches whose rows were those of inputs alone.
        reasons: kinds of batches whose rows were not -> why.
    """

    exact: set[Hashable] = field(default_factory=set)
    reasons: dict[Hashable, str] = field(default_factory=dict)


_FINDINGS: weakref.WeakKeyDictionary[Runtime, Findings] = weakref.WeakKeyDictionary()


class Runs:
    """Runs of many inputs with the same reads and edits: see `Probe.run_many`."""

    name = "run_many"

    def __init__(self, runtime: Runtime, reads: Sequence[Read], edits: Sequence[Edit]) -> None:
        self._runtime, self._reads, self._edits = runtime, reads, edits
        self._padding = padding_id(runtime)
        self._findings = _FINDINGS.setdefault(runtime, Findings())
        self._said: set[str] = set()

    def prepare(self, item: Inputs) -> Prepared[Planned]:
        """The input with its reads resolved, and the edits checked against it."""
        runtime = self._runtime
        batch = runtime.batch(item)
        plan = runtime.resolve(self._reads, batch.tokens)
        runtime.resolve_edits(self._edits, batch.tokens)
        lengths = [len(tokens) for tokens in batch.tokens]
        lengths += [batch.inputs["input_ids"].shape[1]] if "input_ids" in batch.inputs else []
        reason = alone_reason(runtime, batch, plan, self._edits)
        return Prepared(Planned(batch, plan, reason), max(lengths, default=1), None if reason else kind_of(batch.inputs))

    def run(self, batch: Sequence[Planned]) -> list[Trace]:
        """The trace of each, from one forward."""
        traces = self._together(batch) if len(batch) > 1 else None
        if traces is not None:
            return traces
        for one in batch:
            self._say(one.reason)
        return [self._alone(one) for one in batch]

    def _alone(self, one: Planned) -> Trace:
        return self._runtime.run(one.batch, self._reads, self._edits)

    def _together(self, batch: Sequence[Planned]) -> list[Trace] | None:
        """The traces of one forward; None: its rows are not what the inputs alone give."""
        runtime = self._runtime
        whole, padded = joined([one.batch for one in batch], self._padding)
        kind = (kind_of(whole.inputs), padded, runtime.model.config._attn_implementation, bool(batch[0].plan.vision))
        if kind in self._findings.reasons:
            self._say(self._findings.reasons[kind])
            return None
        changes = runtime.resolve_edits(self._edits, whole.tokens)
        captured = runtime.engine.run(runtime.forward, whole.inputs, merged([one.plan for one in batch]), whole.slots, edits=changes)
        parts = parted(captured, runtime, [one.batch for one in batch])
        if parts is None:
            self._refuse(kind, "which states of the vision tower are whose is not known for its family")
            return None
        traces = [runtime.trace(one.batch.tokens, part, one.plan) for one, part in zip(batch, parts, strict=True)]
        if kind in self._findings.exact:
            return traces
        # The one with the most padding is run alone once, to see whether padding and the other rows leave it as it is.
        shortest = min(range(len(batch)), key=lambda number: len(batch[number].batch.tokens[0]))
        if not nearly_equal(parts[shortest], self._alone(batch[shortest]).captured):
            self._refuse(kind, "padding or other rows of a batch change what this family computes")
            return None
        self._findings.exact.add(kind)
        return traces

    def _refuse(self, kind: Hashable, reason: str) -> None:
        self._findings.reasons[kind] = reason
        self._say(reason)

    def _say(self, reason: str) -> None:
        if reason and reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"{self.name}() runs its inputs one by one: {reason}.", stacklevel=2)


def alone_reason(runtime: Runtime, batch: Batch, plan: ReadPlan, edits: Sequence[Edit]) -> str:
    """Why an input shares no batch; "" if it can."""
    if runtime.backbone.alone_reason:
        return runtime.backbone.alone_reason
    if plan.modules:
        return f"{plan.modules[0]!r} is read, of which it is not known which part is whose"
    if plan.vision_attention:
        return "the vision tower's attention is read, which knows no rows of a batch"
    if any(isinstance(edit.read, (Vision, VisionAttention, Module)) for edit in edits):
        return "edits of the vision tower or of a module change a whole forward"
    if batch.slots != (SequenceSlot(0),) or ("input_ids" in batch.inputs and batch.inputs["input_ids"].shape[0] > 1):
        return "an input has several rows, or padding"
    if len(batch.tokens[0]) > max_rope_length(runtime.model.config):
        return "an input is longer than the model's rotary frequencies are fixed for"
    return ""


def nearly_equal(ours: Captured, theirs: Captured) -> bool:
    """Whether two captures of one sequence agree to what the order of sums may change in their dtype."""
    pairs = [
        (mine, other)
        for name in ("states", "attention", "logits")
        for key, rows in getattr(theirs, name).items()
        for mine, other in zip(getattr(ours, name)[key], rows, strict=True)
    ]
    pairs += [(ours.vision[state], value) for state, value in theirs.vision.items()]
    return all(_near(mine, other) for mine, other in pairs)


def _near(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not theirs.numel():
        return True
    tolerance = max(1.0, float(theirs.float().abs().max())) * torch.finfo(theirs.dtype).eps ** 0.5
    return float((ours.float() - theirs.float()).abs().max()) <= tolerance
