"""The value of an edit, broadcast to what it edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from probe.errors import InvalidEdit
from probe.tracing.activation import Activation, RaggedActivation
from probe.tracing.edits.kinds import Operand


class BroadcastOperand:
    """An operand seen as (layer, batch, axes of the read...), each axis as long as what is edited, or 1.

    Args:
        operand: as the user gave it.
        axes: the read's own axes, such as ("token", "feature") or ("head", "query", "key").
        sizes: for each row of the batch the length of each axis, "layer" included; an axis whose length is not known is left out.
        edit: for messages.
        batch: how many rows the batch has; None: as many as `sizes`; 0: not known, and checked by `check_batch`.

    Raises:
        InvalidEdit: an axis is neither 1 nor as long as what is edited.
    """

    def __init__(
        self, operand: Operand, axes: tuple[str, ...], sizes: Sequence[Mapping[str, int]], edit: str, batch: int | None = None
    ) -> None:
        dims = ("layer", "batch", *axes)
        parts = operand.rows() if isinstance(operand, RaggedActivation) else (operand,)
        self._rows = [_named(part, dims, edit) for part in parts]
        self._ragged = len(parts) > 1
        if self._ragged and len(parts) != len(sizes):
            raise InvalidEdit(f"{edit}: the value has {len(parts)} rows, the input {len(sizes)}. Give one, or one for each row.")
        for number, row in enumerate(sizes):
            given = self._rows[number] if self._ragged else self._rows[0]
            expected = dict(row) if batch == 0 else {**row, "batch": 1 if self._ragged else len(sizes)}
            for dim, size in zip(dims, given.shape, strict=True):
                if dim in expected and size not in (1, expected[dim]):
                    raise InvalidEdit(
                        f"{edit}: the value is {size} long along {dim}, what is edited {expected[dim]} "
                        f"({', '.join(f'{name} {length}' for name, length in expected.items())}). Give it that length, or 1."
                    )

    def check_batch(self, count: int, edit: str) -> None:
        """Refuse an operand of another number of rows, images or tiles.

        Raises:
            InvalidEdit.
        """
        given = len(self._rows) if self._ragged else self._rows[0].shape[1]
        if given not in (1, count):
            raise InvalidEdit(f"{edit}: the value has {given} rows along batch, what is edited {count}. Give one, or as many.")

    def at(self, layer: int, row: int) -> Tensor:
        """The operand of one layer and one row, over the read's own axes.

        Args:
            layer: index among the layers of the read.
        """
        values = self._rows[row if self._ragged else 0]
        values = values[layer if values.shape[0] > 1 else 0]
        return values[row if values.shape[0] > 1 else 0]


def by_number(operand: Operand, labels: Mapping[str, Sequence[int]]) -> Operand:
    """An Activation that has all of a read's layers and heads by their numbers, in the read's order; anything else as it is.

    Args:
        labels: axis -> the read's numbers.
    """
    if isinstance(operand, RaggedActivation):
        return RaggedActivation([cast(Activation, by_number(row, labels)) for row in operand])
    if isinstance(operand, Activation):
        for dim, numbers in labels.items():
            known = operand.coords.get(dim, ())
            if len(known) > 1 and len(set(known)) == len(known) and {*numbers} <= {*known}:
                operand = operand.sel(**{dim: list(numbers)})
    return operand


def select(operand: Tensor, axis: int, indices: Sequence[int]) -> Tensor:
    """Some indices of an axis that is as long as what is edited; all of it if its length is 1."""
    if operand.shape[axis] == 1:
        return operand
    return operand.index_select(axis, torch.tensor(indices, dtype=torch.long, device=operand.device))


def _named(operand: Operand, dims: tuple[str, ...], edit: str) -> Tensor:
    """The operand with all of these axes, of length 1 where it has none."""
    if isinstance(operand, Activation):
        return _by_name(operand, dims, edit)
    tensor = operand if isinstance(operand, Tensor) else torch.tensor(operand)
    if tensor.ndim == len(dims) - 1:
        tensor = tensor[:, None]  # layers, without a batch
    if tensor.ndim > len(dims):
        raise InvalidEdit(
            f"{edit}: the value has the shape {tuple(tensor.shape)}. It takes {', '.join(dims[2:])}, with a layer axis before them if it "
            "differs between layers."
        )
    return tensor[(None,) * (len(dims) - tensor.ndim)]


def _by_name(operand: Activation, dims: tuple[str, ...], edit: str) -> Tensor:
    unknown = [dim for dim in operand.dims if dim not in dims]
    if unknown:
        raise InvalidEdit(
            f"{edit}: the value has an axis {unknown[0]!r}; what is edited has {', '.join(dims)}. Select along it first, or pass its tensor."
        )
    tensor = operand.data.permute([operand.dims.index(dim) for dim in dims if dim in operand.dims])
    for number, dim in enumerate(dims):
        if dim not in operand.dims:
            tensor = tensor.unsqueeze(number)
    return tensor
