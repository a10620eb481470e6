"""Traces of many answers after one prefix: its states are read with it once, the rest in passes that answers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probe.inputs.encoding import Answer
from probe.runtime import Runtime
from probe.sessions.continuations import Continuations
from probe.sessions.prefix import Prefix
from probe.sessions.prefixes import run_prefix
from probe.tokens.spans import Span, TokenMap
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import Edit
from probe.tracing.edits.stepwise import after_image
from probe.tracing.reads import Read
from probe.tracing.resolving import Indices, ReadPlan
from probe.tracing.sites import StateAddress
from probe.tracing.trace import Trace


def readable_after(runtime: Runtime, prefix: Prefix, answers: Sequence[Answer], reads: Iterable[Read]) -> bool:
    """Whether every attention query and every logits position lies after the prefix, and states are those of one layout.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
    """
    plan = runtime.resolve(reads, tuple(answer.tokens for answer in answers))
    if plan.modules or plan.vision_attention:
        return False
    rows = [*plan.queries.values(), *(plan.positions[position] for position in plan.logits)]
    return all(position >= len(prefix) for sequences in rows for positions in sequences for position in positions)


def trace_after(
    runtime: Runtime,
    policy: str,
    prefix: Prefix,
    answers: Sequence[Answer],
    reads: Sequence[Read],
    edits: Sequence[Edit] = (),
) -> list[Trace]:
    """One pass over all of the answers, after the prefix; one Trace each, as `Probe.run` gives it.

    Args:
        reads: that are `readable_after` the prefix.
        edits: of the prefix and what is behind it.
    """
    tokens = tuple(answer.tokens for answer in answers)
    plan, changes = runtime.resolve(reads, tokens), runtime.resolve_edits(after_image(edits), tokens)
    with runtime.engine.lock:
        _read_missing_states(runtime, prefix, plan)
    own = _plan_after(plan, len(prefix))
    captured = Captured()
    if own.states or own.attention or own.logits:
        packed = Continuations(runtime, policy, [prefix], [0] * len(answers)).next_inputs([one.ids[len(prefix) :] for one in tokens])
        captured = runtime.engine.run(lambda inputs: runtime.model(**inputs), packed.inputs, own, packed.slots, edits=changes)
    return [_trace_of(runtime, prefix, plan, captured, number, one, reads) for number, one in enumerate(tokens)]


def _trace_of(
    runtime: Runtime, prefix: Prefix, plan: ReadPlan, captured: Captured, number: int, tokens: TokenMap, reads: Sequence[Read]
) -> Trace:
    """The Trace of one sequence of a shared pass."""
    found = {}
    for address, asked in plan.states.items():
        for position in asked:
            rows = captured.states.get((address, position))
            states = _states(prefix, address, plan.positions[position][number], rows[number] if rows else None)
            found[address, position] = [states]
    own = Captured(
        states=found,
        attention={address: [rows[number]] for address, rows in captured.attention.items()},
        vision={layer: prefix.vision[layer] for layer in plan.vision},
        logits={position: [rows[number]] for position, rows in captured.logits.items()},
        row_differences=captured.row_differences,
    )
    return runtime.trace((tokens,), own, runtime.resolve(reads, (tokens,)))


def _read_missing_states(runtime: Runtime, prefix: Prefix, plan: ReadPlan) -> None:
    """Run the prefix once more for planned states that it does not have."""
    missing = ReadPlan(vision=tuple(layer for layer in plan.vision if layer not in prefix.vision))
    for address, asked in plan.states.items():
        for positions in dict.fromkeys(_positions_within(row, len(prefix)) for position in asked for row in plan.positions[position]):
            if positions and (address, positions) not in prefix.states:
                at = Span(positions)
                missing.positions[at] = (positions,)
                missing.states.setdefault(address, []).append(at)
                missing.heads |= {address: plan.heads[address]} if address in plan.heads else {}
    if missing.states or missing.vision:
        run_prefix(runtime, prefix, missing)


def _positions_within(positions: Indices, length: int) -> Indices:
    return tuple(position for position in positions if position < length)


def _plan_after(plan: ReadPlan, length: int) -> ReadPlan:
    """The plan without what lies within the prefix alone, so that the pass ends as early as it can."""
    states = {
        address: [position for position in asked if not all(row and max(row) < length for row in plan.positions[position])]
        for address, asked in plan.states.items()
    }
    return replace(plan, states={address: asked for address, asked in states.items() if asked}, vision=())


def _states(prefix: Prefix, address: StateAddress, positions: Indices, own: Tensor | None) -> Tensor:
    """States ([head,] token, feature) at these positions, in this order, from the prefix and from the sequence's own pass."""
    before = _positions_within(positions, len(prefix))
    if len(before) == len(positions) and positions:
        return prefix.states[address, before]
    assert own is not None, "positions after the prefix were read in the sequence's own pass"
    if own.shape[-2] == len(positions):  # none lies in the prefix; or keys and values, which a pass has of the prefix, too
        return own
    joined = own.new_empty(*own.shape[:-2], len(positions), own.shape[-1])
    shared = torch.tensor([position < len(prefix) for position in positions], device=joined.device)
    joined[..., shared, :], joined[..., ~shared, :] = prefix.states[address, before], own
    return joined
