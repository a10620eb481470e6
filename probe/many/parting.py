"""What one forward of a batch captured, sequence by sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from torch import Tensor

from probe.runtime import Batch, Runtime
from probe.tracing.capturing.captured import Captured
from probe.tracing.resolving import ReadPlan, RowIndices

Key = TypeVar("Key")


def merged(plans: Sequence[ReadPlan]) -> ReadPlan:
    """The plan of a batch, from the plans of its sequences, which are of the same reads."""

    def rows(parts: Sequence[Mapping[Key, RowIndices]]) -> dict[Key, RowIndices]:
        return {key: tuple(chain.from_iterable(part[key] for part in parts)) for key in parts[0]}

    return replace(
        plans[0],
        positions=rows([plan.positions for plan in plans]),
        queries=rows([plan.queries for plan in plans]),
        keys=rows([plan.keys for plan in plans]),
    )


def parted(captured: Captured, runtime: Runtime, batches: Sequence[Batch]) -> list[Captured] | None:
    """What each sequence has of a batch; None: it is not known which part of the vision tower's states is whose."""
    towers = {state: _by_sequence(value, runtime, batches) for state, value in captured.vision.items()}
    if any(parts is None for parts in towers.values()):
        return None
    return [
        Captured(
            states={key: [rows[number]] for key, rows in captured.states.items()},
            attention={key: [rows[number]] for key, rows in captured.attention.items()},
            vision={state: parts[number] for state, parts in towers.items() if parts is not None},
            logits={key: [rows[number]] for key, rows in captured.logits.items()},
            row_differences=captured.row_differences,
        )
        for number in range(len(batches))
    ]


def _by_sequence(states: Tensor, runtime: Runtime, batches: Sequence[Batch]) -> list[Tensor] | None:
    """The tower's states of each sequence's images: along the axis of images or tiles, or, where the patches of all images follow each
    other in one row, along theirs."""
    axis = 1 if states.ndim > 2 and states.shape[0] == 1 else 0
    for counts in zip(*(_tower_lengths(runtime, batch) for batch in batches), strict=True):
        if all(counts) and sum(counts) == states.shape[axis]:
            return [part.clone() for part in states.split(list(counts), dim=axis)]
    return None


def _tower_lengths(runtime: Runtime, batch: Batch) -> tuple[int, ...]:
    """How long one sequence's part of the tower's states may be: by its images, tiles or patches as they come in, as laid out, or 1."""
    pixels = next((value for name, value in batch.inputs.items() if name.startswith("pixel_values") and isinstance(value, Tensor)), None)
    images, tiles = (0, 0) if pixels is None else (pixels.shape[0], pixels.shape[:-3].numel())
    return images, tiles, runtime.patches(batch.tokens) or 0, 1
