"""RaggedActivation: one read of a batch whose rows differ in length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from probe.errors import InvalidRead, NotRead
from probe.tokens.integers import as_int
from probe.tracing.activation.array import Activation, Index


class RaggedActivation(Activation):
    """An activation whose rows differ in length, such as a span of two tokens in one row and of three in another.

    It is a sequence of the rows' own activations: `rows()`, `len(a)`, `a[0]`, iteration; `to` moves them all. Anything that needs one tensor for the whole
    batch (`data`, `sel`, `mean`, ...) raises `NotRead`.

    >>> from probe.tracing.activation import RaggedActivation
    >>> short, long = (probe.Activation(torch.zeros(1, n, 4), ("batch", "token", "feature")) for n in (2, 3))
    >>> ragged = RaggedActivation([short, long])
    >>> ragged
    RaggedActivation(2 rows of batch, token, feature; token=2, 3)
    >>> [row.shape["token"] for row in ragged.rows()]
    [2, 3]
    """

    _rows: tuple[Activation, ...]

    def __init__(self, rows: Sequence[Activation]) -> None:
        if len({row.dims for row in rows}) != 1:
            raise InvalidRead("A ragged activation has one or more rows, all with the same axes.")
        self.__dict__.update(
            _rows=tuple(rows),
            dims=rows[0].dims,
            coords={},
            layout=None,
            view=None,
            no_grid_reason="the rows of the batch differ in length; fold each of .rows()",
            normed=rows[0].normed,
            words=rows[0].words,
        )

    @property
    def data(self) -> Tensor:
        """Not available: rows of different lengths do not form one tensor.

        Raises:
            NotRead: always.
        """
        raise NotRead(f"The rows of {self!r} differ in length, so there is no one tensor of them. Take each row's own from .rows().")

    def rows(self) -> tuple[Activation, ...]:
        """Each row's own activation, with a `batch` axis of length 1."""
        return self._rows

    def to(self, *targets: str | torch.device | torch.dtype) -> RaggedActivation:
        """Each row on a device, in a dtype, or both; see `Activation.to`."""
        return RaggedActivation([row.to(*targets) for row in self._rows])

    def __repr__(self) -> str:
        shapes = [row.shape for row in self._rows]
        lengths = [
            f"{dim}={', '.join(str(shape[dim]) for shape in shapes)}" for dim in self.dims if len({shape[dim] for shape in shapes}) > 1
        ]
        return f"RaggedActivation({len(self)} rows of {', '.join(self.dims)}; {'; '.join(lengths) or 'equal lengths'})"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Activation]:
        return iter(self._rows)

    def __getitem__(self, indices: Index | tuple[Index, ...]) -> Activation:
        """The activation of one row, by its number.

        Raises:
            NotRead: no such row.
        """
        row = as_int(indices)
        if row is None or not -len(self) <= row < len(self):
            raise NotRead(f"Row {indices!r} of {self!r} was asked for. Rows are numbered 0 to {len(self) - 1}.")
        return self._rows[row]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RaggedActivation) and self._rows == other._rows

    __hash__ = None
