"""Traces of many answers after their prefixes: states of these are read with them once, the rest in passes that answers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probe.inputs.encoding import Answer
from probe.runtime import Batch, Runtime
from probe.sessions.prefix import Prefix
from probe.sessions.prefixes import run_prefix
from probe.sessions.shared.passes import Lot, Pass, completing_not_finite, lots_of, run_lots
from probe.sessions.state import SessionState
from probe.tokens.spans import Span, TokenMap
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import Edit
from probe.tracing.edits.stepwise import after_image
from probe.tracing.reads import Position, Read
from probe.tracing.resolving import Indices, ReadPlan, RowIndices
from probe.tracing.sites import StateAddress
from probe.tracing.trace import Trace


def _readable_after(runtime: Runtime, prefix: Prefix, answers: Sequence[Answer], reads: Iterable[Read]) -> bool:
    """Whether every attention query and every logits position lies after the prefix, and states are those of one layout.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
    """
    plan = runtime.resolve(reads, tuple(answer.tokens for answer in answers))
    if plan.modules or plan.vision_attention:
        return False
    rows = [*plan.queries.values(), *(plan.positions[position] for position in plan.logits)]
    return all(position >= len(prefix) for sequences in rows for positions in sequences for position in positions)


def trace(answered: Sequence[tuple[SessionState, Answer]], reads: Sequence[Read], edits: tuple[Edit, ...]) -> list[Trace]:
    """For each answer the Trace of one teacher-forced pass after the prefix of its session, as `Probe.run` gives it; see `Session.trace`."""
    if not answered:
        return []
    runtime = answered[0][0].runtime

    def lot_of(state: SessionState, numbers: Sequence[int], answers: Sequence[Answer]) -> Lot[Answer]:
        tokens, changes = [answer.tokens for answer in answers], (*state.edits, *edits)
        state.check_edits(changes, tokens)
        prefix = state.prefix_of(answers, tokens, changes, may_require=False)
        readable = prefix is not None and _readable_after(runtime, prefix, answers, reads)
        return Lot(state.policy, prefix if readable else None, changes, numbers, answers, tokens)

    def alone(answer: Answer, changes: tuple[Edit, ...]) -> Trace:
        return runtime.run(Batch.of(answer), reads, changes)

    def together(batch: Pass[Answer]) -> list[Trace]:
        with completing_not_finite(runtime, batch.items, batch.edits):
            return _trace_after(batch, reads)

    return run_lots(runtime, "trace", lots_of(answered, lot_of), alone, together)


def _trace_after(batch: Pass[Answer], reads: Sequence[Read]) -> list[Trace]:
    """One pass over answers whose reads are `_readable_after` their prefixes."""
    runtime, tokens = batch.runtime, tuple(answer.tokens for answer in batch.items)
    plan, changes = runtime.resolve(reads, tokens), runtime.resolve_edits(after_image(batch.edits), tokens)
    with runtime.engine.lock:
        for number, prefix in enumerate(batch.prefixes):
            _read_missing_states(runtime, prefix, plan, [sequence for sequence, of in enumerate(batch.of) if of == number])
    own = _plan_after(plan, batch.shared)
    captured = Captured()
    if own.states or own.attention or own.logits:
        packed = batch.continuations().next_inputs([one.ids[shared:] for one, shared in zip(tokens, batch.shared, strict=True)])
        captured = runtime.engine.run(lambda inputs: runtime.model(**inputs), packed.inputs, own, packed.slots, edits=changes)
    return [
        _trace_of(runtime, batch.prefixes[of], plan, captured, number, one, reads)
        for number, (of, one) in enumerate(zip(batch.of, tokens, strict=True))
    ]


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


def _read_missing_states(runtime: Runtime, prefix: Prefix, plan: ReadPlan, sequences: Sequence[int]) -> None:
    """Run a prefix once more for planned states that it does not have, of the sequences that continue it."""
    missing = ReadPlan(vision=tuple(layer for layer in plan.vision if layer not in prefix.vision))
    for address, asked in plan.states.items():
        for positions in dict.fromkeys(
            _positions_within(row, len(prefix)) for position in asked for row in _of(plan.positions[position], sequences)
        ):
            if positions and (address, positions) not in prefix.states:
                at = Span(positions)
                missing.positions[at] = (positions,)
                missing.states.setdefault(address, []).append(at)
                missing.heads |= {address: plan.heads[address]} if address in plan.heads else {}
    if missing.states or missing.vision:
        run_prefix(runtime, prefix, missing)


def _of(rows: RowIndices, sequences: Sequence[int]) -> list[Indices]:
    return [rows[sequence] for sequence in sequences]


def _positions_within(positions: Indices, length: int) -> Indices:
    return tuple(position for position in positions if position < length)


def _plan_after(plan: ReadPlan, lengths: Sequence[int]) -> ReadPlan:
    """The plan without what lies within the prefixes alone, so that the pass ends as early as it can.

    Args:
        lengths: for each sequence that of its prefix.
    """

    def within(position: Position | None) -> bool:
        return all(row and max(row) < length for row, length in zip(plan.positions[position], lengths, strict=True))

    states = {address: [position for position in asked if not within(position)] for address, asked in plan.states.items()}
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
