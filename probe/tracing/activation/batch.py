"""From tensors of a batch's rows to one activation, ragged where the rows differ in length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from probe.tokens.layout import ImageLayout
from probe.tokens.spans import TokenMap
from probe.tokens.video import VideoLayout
from probe.tracing.activation.array import Activation
from probe.tracing.activation.ragged import RaggedActivation
from probe.tracing.resolving import RowIndices


def activation_of_rows(
    rows: Sequence[Tensor],
    dims: tuple[str, ...],
    tokens: Sequence[TokenMap],
    indices: Mapping[str, RowIndices],
    coords: Mapping[str, tuple[int, ...]] | None = None,
    normed: tuple[bool, ...] | None = None,
) -> Activation:
    """The rows of a batch as one activation, a `RaggedActivation` if they differ in shape.

    Args:
        rows: for each row a tensor with the axes `dims` without `batch`.
        tokens: the TokenMap of each row.
        indices: axis -> for each row the token indices along that axis.
        coords: of other axes.
        normed: `Activation.normed`.
    """
    if len({row.shape for row in rows}) == 1:
        return _stack_rows(range(len(rows)), rows, dims, tokens, indices, coords or {}, normed)
    labelled = [{**(coords or {}), "batch": (number,)} for number in range(len(rows))]
    return RaggedActivation([_stack_rows([number], rows, dims, tokens, indices, labels, normed) for number, labels in enumerate(labelled)])


def _stack_rows(
    numbers: Sequence[int],
    rows: Sequence[Tensor],
    dims: tuple[str, ...],
    tokens: Sequence[TokenMap],
    indices: Mapping[str, RowIndices],
    coords: Mapping[str, tuple[int, ...]],
    normed: tuple[bool, ...] | None,
) -> Activation:
    """The activation of the rows of these numbers, which agree in shape."""
    data = torch.stack([rows[number] for number in numbers], dim=dims.index("batch"))
    labels = dict(coords)
    for axis, of_rows in indices.items():
        distinct = {of_rows[number] for number in numbers}
        # The keys of cross-attention are not positions of the sequence, and have no coordinates.
        if len(distinct) == 1 and len(of_rows[numbers[0]]) == data.shape[dims.index(axis)]:
            labels[axis] = of_rows[numbers[0]]
    on_image = indices["key" if "key" in indices else "token"]
    layout, reason = _common_layout([tokens[number].layout_or_reason(on_image[number]) for number in numbers])
    return Activation(data, dims, labels, layout=layout, no_grid_reason=reason, normed=normed)


def _common_layout(layouts: Sequence[tuple[ImageLayout | VideoLayout | None, str]]) -> tuple[ImageLayout | VideoLayout | None, str]:
    if all(layout == layouts[0] for layout in layouts):
        return layouts[0]
    return None, "the rows of the batch are laid out differently"
