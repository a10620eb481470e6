"""Arithmetic of activations: axes are matched by name, and coordinates stay right or there is an error."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import InvalidRead

if TYPE_CHECKING:
    from probe.tracing.activation.array import Activation

Other: TypeAlias = "Arithmetic | Tensor | NDArray[np.generic] | float"
"""What an activation is added to or multiplied by."""
_Operation = Callable[[Tensor, "Tensor | float"], Tensor]


class Arithmetic:
    """`+ - * / **` with a number, a tensor or an array that broadcasts to the activation, or another activation.

    Of another activation the axes are matched by name. Those that both have are of the same length and have the same coordinates; one of the
    two has all axes of the other.
    """

    __array_priority__ = 1000.0  # an array on the left leaves the operation to the activation

    def __add__(self, other: Other) -> Activation:
        return _combined(self, other, operator.add)

    def __radd__(self, other: Other) -> Activation:
        return _combined(self, other, operator.add)

    def __sub__(self, other: Other) -> Activation:
        return _combined(self, other, operator.sub)

    def __rsub__(self, other: Other) -> Activation:
        return _combined(self, other, lambda ours, theirs: theirs - ours)

    def __mul__(self, other: Other) -> Activation:
        return _combined(self, other, operator.mul)

    def __rmul__(self, other: Other) -> Activation:
        return _combined(self, other, operator.mul)

    def __truediv__(self, other: Other) -> Activation:
        return _combined(self, other, operator.truediv)

    def __rtruediv__(self, other: Other) -> Activation:
        return _combined(self, other, lambda ours, theirs: theirs / ours)

    def __pow__(self, other: Other) -> Activation:
        return _combined(self, other, operator.pow)

    def __neg__(self) -> Activation:
        return _activation(self).map(-_activation(self).data)

    def __abs__(self) -> Activation:
        return _activation(self).map(_activation(self).data.abs())


def _activation(one: Arithmetic) -> Activation:
    return cast("Activation", one)


def _combined(one: Arithmetic, other: object, operation: _Operation) -> Activation:
    """The operation on an activation and something else, with the activation's axes.

    Raises:
        InvalidRead: axes, lengths or coordinates that do not fit.
    """
    ours = _activation(one)
    if isinstance(other, Arithmetic):
        return _of_two(ours, _activation(other), operation)
    if isinstance(other, (int, float, np.number)):
        return ours.map(operation(ours.data, other.item() if isinstance(other, np.number) else other))
    if not isinstance(other, (Tensor, np.ndarray)):
        return NotImplemented
    theirs = torch.as_tensor(other).to(ours.data.device)
    if theirs.ndim > ours.data.ndim or any(
        size not in (1, own) for size, own in zip(reversed(theirs.shape), reversed(ours.data.shape), strict=False)
    ):
        raise InvalidRead(
            f"A value of the shape {tuple(theirs.shape)} does not broadcast to {ours!r}. Give it axes of these lengths, or 1."
        )
    return ours.map(operation(ours.data, theirs))


def _of_two(one: Activation, other: Activation, operation: _Operation) -> Activation:
    wide, narrow = (one, other) if {*other.dims} <= {*one.dims} else (other, one)
    if not {*narrow.dims} <= {*wide.dims}:
        raise InvalidRead(f"{one!r} and {other!r} have axes that the other lacks. Select along them first, or take the tensors.")
    for dim in narrow.dims:
        labels = [one.coords.get(dim), other.coords.get(dim)]
        if one.shape[dim] != other.shape[dim] or (None not in labels and labels[0] != labels[1]):
            raise InvalidRead(
                f"{one!r} and {other!r} have other coordinates along {dim}. Select the same ones of both; or, if they are meant to be taken "
                "in order, pass the tensor: a - b.data."
            )
    return wide.map(operation(_aligned(one, wide.dims), _aligned(other, wide.dims)))


def _aligned(one: Activation, dims: tuple[str, ...]) -> Tensor:
    """The data over these axes, of length 1 where it has none."""
    ordered = one.data.permute([one.dims.index(dim) for dim in dims if dim in one.dims])
    return ordered.reshape([one.shape.get(dim, 1) for dim in dims])
