"""Traces of many answers after one prefix: its states are read with it once, the rest in passes that answers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import ModelOutput

from probe.inputs.encoding import Answer, Encoding
from probe.runtime import Runtime
from probe.sessions.continuations import Continuations
from probe.sessions.prefix import Prefix
from probe.tokens.spans import Span, TokenMap
from probe.tracing.capture import Captured
from probe.tracing.hooks import ModelState
from probe.tracing.reads import Hidden, Projected, Read, Vision
from probe.tracing.resolving import Indices, ReadPlan, SequenceSlot
from probe.tracing.trace import Trace


def read_prefix(runtime: Runtime, encoding: Encoding, keep: Sequence[Read]) -> Prefix | None:
    """Run the model over a prompt up to its last image token: the prefix with its KV cache; None: the prompt has no image.

    Args:
        keep: reads; what they name within the prefix is captured in the same pass, the rest is left out.
    """
    image = encoding.tokens.spans.get("image")
    if image is None:
        return None
    length = image.positions[-1] + 1
    inputs = {name: value[:, :length] if name in encoding.token_inputs else value for name, value in encoding.inputs.items()}
    spans = {name: span for name, span in encoding.tokens.spans.items() if all(position < length for position in span.positions)}
    tokens = replace(encoding.tokens, ids=encoding.tokens.ids[:length], spans=spans)
    prefix = Prefix(tokens, inputs, DynamicCache(), 0, ModelState(runtime.model))
    plan = runtime.resolve([part for read in keep if (part := _within(read, spans)) is not None], (tokens,))
    _run_prefix(runtime, prefix, plan, prefix.cache)
    return replace(prefix, position=runtime.backbone.next_position(runtime.model, length))


def _within(read: Read, spans: Mapping[str, Span]) -> Read | None:
    """The part of a read of states that names these spans; None: nothing of it."""
    match read:
        case Hidden(_, at) if at is not None:
            positions = at if isinstance(at, tuple) else (at,)
            known = tuple(position for position in positions if isinstance(position, str) and position in spans)
            return replace(read, at=known) if known else None
        case Vision() | Projected():
            return read
    return None


def _run_prefix(runtime: Runtime, prefix: Prefix, plan: ReadPlan, cache: DynamicCache | None = None) -> None:
    """Run the model over the prefix: capture what is planned, and fill the cache if one is given."""
    filling: dict[str, object] = {} if cache is None else {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}

    def forward(inputs: Mapping[str, Tensor]) -> ModelOutput:
        return runtime.forward(inputs, **filling)

    if plan.hidden or plan.vision:
        captured = runtime.engine.run(forward, prefix.inputs, plan, (SequenceSlot(0),), run_to_end=cache is not None)
        prefix.vision.update(captured.vision)
        for (layer, position), (states,) in captured.hidden.items():
            prefix.hidden[layer, plan.positions[position][0]] = states
    elif cache is not None:
        with torch.no_grad():
            forward(prefix.inputs)


def readable_after(runtime: Runtime, prefix: Prefix, answers: Sequence[Answer], reads: Iterable[Read]) -> bool:
    """Whether every attention query and every logits position lies after the prefix.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
    """
    plan = runtime.resolve(reads, tuple(answer.tokens for answer in answers))
    rows = [*plan.queries.values(), *(plan.positions[position] for position in plan.logits)]
    return all(position >= len(prefix) for sequences in rows for positions in sequences for position in positions)


def trace_after(
    runtime: Runtime, policy: type[Continuations], prefix: Prefix, answers: Sequence[Answer], reads: Sequence[Read]
) -> list[Trace]:
    """One pass over all of the answers, after the prefix; one Trace each, as `Probe.run` gives it.

    Args:
        reads: that are `readable_after` the prefix.
    """
    tokens = tuple(answer.tokens for answer in answers)
    plan = runtime.resolve(reads, tokens)
    with runtime.engine.lock:
        _read_missing_states(runtime, prefix, plan)
    own = _plan_after(plan, len(prefix))
    captured = Captured()
    if own.hidden or own.attention or own.logits:
        packed = policy(runtime, prefix, len(answers)).next_inputs([one.ids[len(prefix) :] for one in tokens])
        captured = runtime.engine.run(lambda inputs: runtime.model(**inputs), packed.inputs, own, packed.slots)
    return [_trace_of(runtime, prefix, plan, captured, number, one, reads) for number, one in enumerate(tokens)]


def _trace_of(
    runtime: Runtime, prefix: Prefix, plan: ReadPlan, captured: Captured, number: int, tokens: TokenMap, reads: Sequence[Read]
) -> Trace:
    """The Trace of one sequence of a shared pass."""
    hidden = {}
    for layer, asked in plan.hidden.items():
        for position in asked:
            rows = captured.hidden.get((layer, position))
            states = _states(prefix, layer, plan.positions[position][number], rows[number] if rows else None)
            hidden[layer, position] = [states]
    own = Captured(
        hidden=hidden,
        attention={address: [rows[number]] for address, rows in captured.attention.items()},
        vision={layer: prefix.vision[layer] for layer in plan.vision},
        logits={position: [rows[number]] for position, rows in captured.logits.items()},
        row_differences=captured.row_differences,
    )
    return runtime.trace((tokens,), own, runtime.resolve(reads, (tokens,)))


def _read_missing_states(runtime: Runtime, prefix: Prefix, plan: ReadPlan) -> None:
    """Run the prefix once more for planned states that it does not have."""
    wanted = {
        (_positions_within(positions, len(prefix)), layer)
        for layer, asked in plan.hidden.items()
        for position in asked
        for positions in plan.positions[position]
    }
    missing = sorted((positions, layer) for positions, layer in wanted if positions and (layer, positions) not in prefix.hidden)
    reads: list[Read] = [
        Hidden(layers=[layer for _, layer in group], at=Span(positions)) for positions, group in groupby(missing, key=lambda pair: pair[0])
    ]
    vision = [layer for layer in plan.vision if layer not in prefix.vision]
    if vision:
        reads.append(Vision(layers=vision))
    if reads:
        _run_prefix(runtime, prefix, runtime.resolve(reads, (prefix.tokens,)))


def _positions_within(positions: Indices, length: int) -> Indices:
    return tuple(position for position in positions if position < length)


def _plan_after(plan: ReadPlan, length: int) -> ReadPlan:
    """The plan without what lies within the prefix alone, so that the pass ends as early as it can."""
    hidden = {
        layer: [position for position in asked if not all(row and max(row) < length for row in plan.positions[position])]
        for layer, asked in plan.hidden.items()
    }
    return replace(plan, hidden={layer: asked for layer, asked in hidden.items() if asked}, vision=())


def _states(prefix: Prefix, layer: int, positions: Indices, own: Tensor | None) -> Tensor:
    """States (token, feature) at these positions, in this order, from the prefix and from the sequence's own pass."""
    before = _positions_within(positions, len(prefix))
    if len(before) == len(positions) and positions:
        return prefix.hidden[layer, before]
    assert own is not None, "positions after the prefix were read in the sequence's own pass"
    if not before:
        return own
    joined = own.new_empty(len(positions), own.shape[-1])
    shared = torch.tensor([position < len(prefix) for position in positions], device=joined.device)
    joined[shared], joined[~shared] = prefix.hidden[layer, before], own
    return joined
