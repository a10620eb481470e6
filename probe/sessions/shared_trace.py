"""Traces of many answers behind one prefix: what lies in the prefix is read with it once, the rest in passes that answers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from probe.inputs.encoding import Answer, Encoding
from probe.sessions.prefix import Continuations, Prefix
from probe.tokens.spans import Span
from probe.tracing.engine import Captured
from probe.tracing.hooks import ModelState
from probe.tracing.reads import Hidden, Projected, Read, Vision
from probe.tracing.resolving import Indices, ReadPlan, SequenceSlot, resolve_reads

if TYPE_CHECKING:
    from probe.model import Probe
    from probe.tracing.trace import Trace


def read_prefix(model: Probe, encoding: Encoding, keep: Sequence[Read]) -> Prefix | None:
    """Run the model over a prompt up to its last image token.

    Args:
        keep: reads; what they name within the prefix is captured in the same pass, the rest is left out.

    Returns:
        None where the prompt has no image.
    """
    image = encoding.tokens.spans.get("image")
    if image is None:
        return None
    length = image.positions[-1] + 1
    inputs = {name: value[:, :length] if name in encoding.token_inputs else value for name, value in encoding.inputs.items()}
    spans = {name: span for name, span in encoding.tokens.spans.items() if all(position < length for position in span.positions)}
    tokens = replace(encoding.tokens, ids=encoding.tokens.ids[:length], spans=spans, _texts={})
    made = Prefix(tokens, inputs, DynamicCache(), 0, ModelState(model.model))
    wanted = resolve_reads([read for read in (_within(read, spans) for read in keep) if read is not None], model.modules, (tokens,))
    _read(model, made, wanted, made.cache)
    return replace(made, position=model.backbone.next_position(model.model, length))


def _within(read: Read, spans: Mapping[str, Span]) -> Read | None:
    """The part of a read that names spans of the prefix; None: nothing of it."""
    match read:
        case Hidden(_, at) if at is not None:
            places = at if isinstance(at, tuple) else (at,)
            known = tuple(place for place in places if isinstance(place, str) and place in spans)
            return replace(read, at=known) if known else None
        case Vision() | Projected():
            return read
    return None


def _read(model: Probe, prefix: Prefix, wanted: ReadPlan, cache: DynamicCache | None = None) -> None:
    """Run the model over the prefix: record what is wanted, and fill the cache if there is one."""
    backbone, hf = model.backbone, model.model
    filling: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}

    def forward(inputs: Mapping[str, Any]) -> Any:
        return hf(**backbone.forward_inputs(hf, inputs), **filling)

    if wanted.hidden or wanted.vision:
        found = model.engine.run(forward, prefix.inputs, wanted, (SequenceSlot(0),), whole=cache is not None)
        prefix.vision.update(found.vision)
        for (layer, place), (states,) in found.hidden.items():
            prefix.hidden[layer, wanted.positions[place][0]] = states
    elif cache is not None:
        with torch.no_grad():
            forward(prefix.inputs)


def readable_behind(model: Probe, prefix: Prefix, answers: Sequence[Answer], reads: Iterable[Read]) -> bool:
    """Whether everything that is read of the prefix itself is states: attention from it and logits in it need a pass of their own.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
    """
    wanted = resolve_reads(reads, model.modules, tuple(answer.tokens for answer in answers))
    rows = [*wanted.queries.values(), *(wanted.positions[place] for place in wanted.logits)]
    return all(position >= len(prefix) for places in rows for positions in places for position in positions)


def trace_behind(
    model: Probe, sharing: type[Continuations], prefix: Prefix, answers: Sequence[Answer], reads: Sequence[Read]
) -> list[Trace]:
    """One pass over all of the answers, behind the prefix; one Trace each, as `Probe.run` gives it.

    Args:
        reads: that are `readable_behind` the prefix.
    """
    maps = tuple(answer.tokens for answer in answers)
    wanted = resolve_reads(reads, model.modules, maps)
    with model.engine.lock:
        _complete(model, prefix, wanted)
    own = _behind(wanted, len(prefix))
    found = Captured()
    if own.hidden or own.attention or own.logits:
        packed = sharing(model.model, model.backbone, prefix, len(answers)).next_inputs([tokens.ids[len(prefix) :] for tokens in maps])
        found = model.engine.run(lambda inputs: model.model(**inputs), packed.inputs, own, packed.slots)
    traces = []
    for number, tokens in enumerate(maps):
        captured = Captured(
            hidden={
                (layer, place): [_joined(prefix, layer, wanted.positions[place][number], found.hidden.get((layer, place)), number)]
                for layer, places in wanted.hidden.items()
                for place in places
            },
            attention={key: [rows[number]] for key, rows in found.attention.items()},
            vision={layer: prefix.vision[layer] for layer in wanted.vision},
            logits={place: [rows[number]] for place, rows in found.logits.items()},
            row_differences=found.row_differences,
        )
        traces.append(model.traced((tokens,), captured, resolve_reads(reads, model.modules, (tokens,))))
    return traces


def _complete(model: Probe, prefix: Prefix, wanted: ReadPlan) -> None:
    """Run the prefix once more for states that were not kept of it."""
    places = {
        (layer, _before(positions, len(prefix))) for layer, at in wanted.hidden.items() for p in at for positions in wanted.positions[p]
    }
    missing = sorted((positions, layer) for layer, positions in places if positions and (layer, positions) not in prefix.hidden)
    reads: list[Read] = [
        Hidden(layers=[layer for _, layer in group], at=Span(positions)) for positions, group in groupby(missing, key=lambda pair: pair[0])
    ]
    unseen = [layer for layer in wanted.vision if layer not in prefix.vision]
    if unseen:
        reads.append(Vision(layers=unseen))
    if reads:
        _read(model, prefix, resolve_reads(reads, model.modules, (prefix.tokens,)))


def _before(positions: Indices, length: int) -> Indices:
    return tuple(position for position in positions if position < length)


def _behind(wanted: ReadPlan, length: int) -> ReadPlan:
    """The plan without what lies in the prefix alone, so that the pass ends as early as it can."""
    hidden = {
        layer: [place for place in places if not all(row and max(row) < length for row in wanted.positions[place])]
        for layer, places in wanted.hidden.items()
    }
    return replace(wanted, hidden={layer: places for layer, places in hidden.items() if places}, vision=())


def _joined(prefix: Prefix, layer: int, positions: Indices, own: list[Tensor] | None, number: int) -> Tensor:
    """States (token, feature) at these positions, in this order, from the prefix and from the answer's own pass."""
    before = _before(positions, len(prefix))
    if len(before) == len(positions) and positions:
        return prefix.hidden[layer, before]
    assert own is not None, "a place that does not lie in the prefix alone was read behind it"
    if not before:
        return own[number]
    joined = own[number].new_empty(len(positions), own[number].shape[-1])
    shared = torch.tensor([position < len(prefix) for position in positions], device=joined.device)
    joined[shared], joined[~shared] = prefix.hidden[layer, before], own[number]
    return joined
