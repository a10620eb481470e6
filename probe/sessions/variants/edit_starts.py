"""Where edits begin: the first position and the first decoder block that they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probe.runtime import Runtime
from probe.tokens.spans import TokenMap
from probe.tracing.edits import Edit
from probe.tracing.reads import Attention, Keys, Module, Queries, Values, Vision
from probe.tracing.resolving import ReadPlan


@dataclass(frozen=True)
class Start:
    """Where an edited forward begins to differ from the unedited one.

    Attributes:
        position: the first token whose states differ.
        layer: the first decoder block that has to run; as many as there are blocks: the final norm and the head alone.
    """

    position: int
    layer: int


def start_of(edits: Sequence[Edit], runtime: Runtime, tokens: TokenMap) -> Start | None:
    """Where the edits of one sequence begin; None: before the decoder, or it is not known.

    A changed key or value is seen by the query of its own position and by later ones.

    Raises:
        InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
    """
    position, layer = len(tokens), len(runtime.modules.layers)
    for edit in edits:
        if isinstance(edit.read, (Vision, Module)):
            return None
        plan = runtime.resolve([edit.read], (tokens,))
        changed = [index for (indices,) in (plan.queries or plan.positions).values() for index in indices]
        if changed:
            position, layer = min(position, *changed), min(layer, *_layers(plan))
    return Start(position, layer)


def attention_blocks(edits: Iterable[Edit], runtime: Runtime, tokens: TokenMap) -> set[int]:
    """The decoder blocks whose attention calls are edited."""
    reads = [edit.read for edit in edits if isinstance(edit.read, (Attention, Queries, Keys, Values))]
    return set(_layers(runtime.resolve(reads, (tokens,))))


def _layers(plan: ReadPlan) -> list[int]:
    return [*plan.attention, *(address.layer for address in plan.states)]
