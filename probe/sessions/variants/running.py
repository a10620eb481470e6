"""Variants: many edited runs of one input. Each runs only the tokens and the decoder blocks behind its first edit."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from probe.errors import NotFinite
from probe.runtime import Batch, Runtime
from probe.sessions.policies import no_sharing_reason
from probe.sessions.prefix import max_rope_length
from probe.sessions.variants.clean_run import CleanRun, run_clean
from probe.sessions.variants.edit_starts import Start, attention_blocks, start_of
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import Edit, EditPlan
from probe.tracing.hooks import forward_hooks
from probe.tracing.reads import Read
from probe.tracing.resolving import Indices, ReadPlan
from probe.tracing.sites import StateAddress
from probe.tracing.slots import SequenceSlot
from probe.tracing.trace import Trace

Result = TypeVar("Result")
Edits = tuple[Edit, ...]

_FEW_TOKENS = 16  # a pass over so few costs little more than one over fewer: it reads the same weights

_IMAGE_REASONS: weakref.WeakKeyDictionary[Runtime, dict[str, str]] = weakref.WeakKeyDictionary()
"""For each kernel, with images and without, why no forward can begin within the image, or ""."""


@dataclass(frozen=True)
class Variant:
    """One edited run.

    Attributes:
        edits: as the user gave them.
        plan: the same, resolved.
        start: where the run begins to differ; None: before the decoder.
    """

    edits: Edits
    plan: EditPlan
    start: Start | None


def run_variants(
    runtime: Runtime, batch: Batch, reads: Sequence[Read], variants: Sequence[Edits], then: Callable[[Trace], Result]
) -> list[Result]:
    """What `then` makes of the trace of each variant, in order: see `Probe.run_variants`.

    Args:
        then: called right after the pass of a variant, so that what it leaves out of its result is not held.
    """
    plan = runtime.resolve(reads, batch.tokens)
    resolved = [runtime.resolve_edits(edits, batch.tokens) for edits in variants]

    def whole(edits: Edits) -> Result:
        return then(runtime.run(batch, reads, edits))

    reason = _whole_reason(runtime, batch, plan)
    if reason:
        _warn(reason)
        return [whole(edits) for edits in variants]
    starts = [start_of(edits, runtime, batch.tokens[0]) for edits in variants]
    known = [start for start in starts if start is not None]
    results: dict[int, Result] = {}
    if known:
        made = [Variant(*one) for one in zip(variants, resolved, starts, strict=True)]
        try:
            clean = run_clean(runtime, batch, plan, {0, len(runtime.modules.layers) - 1, *(start.layer for start in known)})
        except NotFinite:  # the edits of a variant may replace what is not finite
            clean = None
        if clean is not None:
            usable, reason = _usable_starts(clean, made)
            if reason:
                _warn(reason)
            results = _run_shared(clean, plan, made, usable, then, whole)
    return [results[number] if number in results else whole(edits) for number, edits in enumerate(variants)]


def _run_shared(
    clean: CleanRun,
    plan: ReadPlan,
    variants: Sequence[Variant],
    starts: Mapping[int, Start],
    then: Callable[[Trace], Result],
    whole: Callable[[Edits], Result],
) -> dict[int, Result]:
    """The results of the variants that go on from the unedited run, by their number.

    Args:
        starts: from where each of these runs.
    """
    batcher = clean.runtime.batcher(clean.policy, "variants")
    results: dict[int, Result] = {}
    for start, numbers in _groups(starts, len(clean.tokens)):

        def run_batch(batch: list[int], start: Start = start) -> list[Result]:
            try:
                traces = _traces(clean, plan, start, [variants[number].plan for number in batch])
            except NotFinite:  # by itself each says in which layer it begins, or is finite
                return [whole(variants[number].edits) for number in batch]
            return [then(trace) for trace in traces]

        sizes = [len(clean.tokens) - start.position] * len(numbers)
        results |= dict(zip(numbers, batcher.map(numbers, sizes, run_batch), strict=True))
    return results


def _groups(starts: Mapping[int, Start], length: int) -> list[tuple[Start, list[int]]]:
    """Variants that share passes: of one first block, and of first positions that are near each other.

    A shared pass begins at the first of these, so that it runs at most twice the tokens that each needs, or few.
    """
    groups: list[tuple[Start, list[int]]] = []
    for number in sorted(starts, key=lambda number: (starts[number].layer, starts[number].position)):
        start, own = starts[number], length - starts[number].position
        if groups and own:
            first, numbers = groups[-1]
            if first.layer == start.layer and length - first.position <= max(2 * own, _FEW_TOKENS):
                numbers.append(number)
                continue
        groups.append((start, [number]))
    return groups


def _usable_starts(clean: CleanRun, variants: Sequence[Variant]) -> tuple[dict[int, Start], str]:
    """From where each variant runs that can go on from the unedited run, and why others that begin in the decoder cannot."""
    last, usable, reasons = _last_image_token(clean), {}, set()
    for number, variant in enumerate(variants):
        start = variant.start
        if start is None or clean.crossed & attention_blocks(variant.edits, clean.runtime, clean.tokens):
            continue
        position = clean.begin(start.position, last)
        if position <= last and (reason := _image_reason(clean)):
            reasons.add(f"{'a change within the image' if clean.has_beginnings else 'a change of recurrent states'}: {reason}")
        else:
            usable[number] = replace(start, position=position)
    return usable, "; ".join(sorted(reasons))


def _last_image_token(clean: CleanRun) -> int:
    """The last position of which it has to be found out whether a forward can begin there; 0 without an image."""
    if clean.runtime.modules.image_token_id is None:
        return len(clean.tokens)
    return max(clean.tokens.shown, default=0)


def _traces(clean: CleanRun, plan: ReadPlan, start: Start, edits: Sequence[EditPlan]) -> list[Trace]:
    """The traces of edited copies of the sequence, from one pass."""
    runtime, own = clean.runtime, _plan_behind(plan, start, len(edits))
    captured = Captured()
    if own.states or own.attention or own.logits:
        captured = clean.forward(start, edits, own)
    return [
        runtime.trace((clean.tokens,), _completed(clean.captured, captured, plan, start.position, number), plan)
        for number in range(len(edits))
    ]


def _plan_behind(plan: ReadPlan, start: Start, count: int) -> ReadPlan:
    """What a pass from a start on changes of a plan's reads, for as many sequences."""

    def reached(indices: Indices) -> bool:
        return any(index >= start.position for index in indices)

    states = {
        address: [position for position in asked if reached(plan.positions[position][0])]
        for address, asked in plan.states.items()
        if address.layer >= start.layer
    }
    attention = {
        block: [selection for selection in asked if reached(plan.queries[selection][0])]
        for block, asked in plan.attention.items()
        if block >= start.layer
    }
    return replace(
        plan,
        states={address: asked for address, asked in states.items() if asked},
        attention={block: asked for block, asked in attention.items() if asked},
        vision=(),
        vision_attention={},
        logits=tuple(position for position in plan.logits if reached(plan.positions[position][0])),
        positions={position: rows * count for position, rows in plan.positions.items()},
        queries={selection: rows * count for selection, rows in plan.queries.items()},
        keys={selection: rows * count for selection, rows in plan.keys.items()},
    )


def _completed(clean: Captured, captured: Captured, plan: ReadPlan, position: int, number: int) -> Captured:
    """What one sequence of a pass captured, and of the unedited run what lies before it."""

    def joined(before: Sequence[Tensor], own: Sequence[Tensor] | None, indices: Indices, axis: int) -> list[Tensor]:
        return [before[0] if own is None else _joined(before[0], own[number], [index >= position for index in indices], axis)]

    return Captured(
        states={
            (address, at): joined(rows, captured.states.get((address, at)), plan.positions[at][0], -2)
            for (address, at), rows in clean.states.items()
        },
        attention={
            (block, selection): joined(rows, captured.attention.get((block, selection)), plan.queries[selection][0], -2)
            for (block, selection), rows in clean.attention.items()
        },
        vision=clean.vision,
        vision_attention=clean.vision_attention,
        logits={at: joined(rows, captured.logits.get(at), plan.positions[at][0], -2) for at, rows in clean.logits.items()},
        row_differences=clean.row_differences | captured.row_differences,
    )


def _joined(before: Tensor, own: Tensor, behind: Sequence[bool], axis: int) -> Tensor:
    """The values of all positions: of the unedited run, and those behind the start from the pass.

    Args:
        own: at the positions behind the start, or at all of them: a pass has the keys of the cache, too.
    """
    if own.shape[axis] == len(behind):
        return own
    result = before.clone()
    indices = torch.tensor([index for index, is_behind in enumerate(behind) if is_behind], device=before.device)
    return result.index_copy_(axis, indices, own)


def _whole_reason(runtime: Runtime, batch: Batch, plan: ReadPlan) -> str:
    """Why variants of these inputs run whole; "" if they can go on from the unedited run."""
    reason = no_sharing_reason(runtime)
    if reason:
        return reason
    tokens, *others = batch.tokens
    if others or batch.slots != (SequenceSlot(0),) or len(tokens) != batch.inputs["input_ids"].shape[1]:
        return "the input has several rows, or padding"
    if "stream" in runtime.backbone.axes:
        return "its blocks pass on several residual streams"
    if plan.modules:
        return f"{plan.modules[0]!r} is read, of which it is not known where it is reached"
    if len(tokens) > max_rope_length(runtime.model.config):
        return "the input is longer than the model's rotary frequencies are fixed for"
    if any(map(_has_hooks, runtime.model.modules())):
        return "the model has forward hooks of your own, which would get the tokens behind an edit alone"
    return ""


def _has_hooks(module: nn.Module) -> bool:
    return bool(forward_hooks(module) or module._forward_pre_hooks)


def _image_reason(clean: CleanRun) -> str:
    """Why no forward can begin within or before the image; "": it can, as runs of all tokens from the projected image and from the last block on have shown."""
    runtime = clean.runtime
    kernel = f"{runtime.model.config.get_text_config(decoder=True)._attn_implementation} {bool(clean.tokens.shown)}"
    known = _IMAGE_REASONS.setdefault(runtime, {})
    if kernel not in known:
        depth = len(runtime.modules.layers)
        address = StateAddress("Hidden", depth)
        every = ReadPlan(states={address: [None]}, positions={None: (tuple(range(len(clean.tokens))),)})
        expected = clean.last[0].float()
        tolerance = float(expected.abs().max()) * torch.finfo(clean.last.dtype).eps ** 0.5
        differs = False
        for layer in (0, depth - 1):
            (states,) = clean.forward(Start(0, layer), [EditPlan()], every).states[address, None]
            differs = float((states.float() - expected).abs().max()) > tolerance
            if differs:
                break
        known[kernel] = (
            "image tokens attend to later ones, have positions of their own, or get more of the image in later blocks, or blocks take more "
            "than the residual stream"
            if differs
            else ""
        )
    return known[kernel]


def _warn(reason: str) -> None:
    warnings.warn(f"Variants run whole, each at the price of a run: {reason}.", stacklevel=4)
