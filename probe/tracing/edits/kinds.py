"""The edits: what is changed, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import InvalidEdit
from probe.tracing.activation import Activation, RaggedActivation
from probe.tracing.reads import Attention, Logits, Read, VisionAttention, check_read

Operand = Tensor | Activation | float
"""What an edit puts, adds or multiplies."""
Value = Operand | NDArray[np.generic]
"""The same, as a user may give it. Tensors and arrays are copied: writing to them later does not change the edit."""
Change = Callable[[Tensor, Tensor | None], Tensor]
"""From values and the operand, broadcast to them, to new values."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of what a read addresses. Made by `zero`, `replace`, `add`, `scale`, `apply` and `block`; equal to itself alone.

    Attributes:
        name: of the function that made it.
        read: the address: what is changed, at which layers and positions.
        change: from the values there, of one layer and one row, and the operand to new values; None for `block`.
        operand: a value, vector or factor; None where the edit needs none.

    >>> probe.edit.zero(probe.Hidden(3, at="image"))
    Edit(zero, Hidden(layers=(3,), at=('image',), normed=True))
    """

    name: str
    read: Read
    change: Change | None
    operand: Operand | None = None

    def __post_init__(self) -> None:
        read = check_read(self.read)
        if isinstance(read, (Logits, VisionAttention)):
            instead = "Edit the last hidden state, Hidden(-1)" if isinstance(read, Logits) else "Edit Vision() states"
            raise InvalidEdit(f"{type(read).__name__} cannot be edited. {instead}.")
        if isinstance(read, Attention) and read.heads == "mean":
            raise InvalidEdit('The mean over heads cannot be edited. Name heads, or heads="all".')
        if self.name == "block" and not isinstance(read, Attention):
            raise InvalidEdit(f"block() takes a probe.Attention read, got {read!r}. To silence states, use zero().")
        if self.operand is not None and not all(map(_is_finite, _tensors(self.operand))):
            raise InvalidEdit(f"{self.name}({read!r}): the value holds NaN or infinity. Pass finite numbers.")

    def __repr__(self) -> str:
        return f"Edit({self.name}, {self.read!r})"


def zero(read: Read) -> Edit:
    """Set what is read to 0. Attention rows are set to 0 without renormalising the others: see `block`.

    >>> y = model.encode(image, "Is there a cat?")
    >>> trace = model.run(y, probe.Hidden(3), edits=[probe.edit.zero(probe.Hidden(3, at="image"))])
    >>> float(trace.hidden("image", layer=3).data.abs().max())
    0.0
    """
    return Edit("zero", read, lambda values, _: torch.zeros_like(values))


def replace(read: Read, value: Value) -> Edit:
    """Put a value in the place of what is read: activation patching.

    Args:
        value: a tensor or array that broadcasts to the read's ([head,] token, feature), with a leading layer axis if it differs between
            layers; or an Activation, whose axes are matched by name. If it has all of the read's layers (or heads) by their numbers, each gets
            its own; else they are taken in order, as to put states of one layer into another. Attention: (head, query, key).

    >>> y = model.encode(image, "Is there a cat?")
    >>> clean = model.run(y, probe.Hidden(3, at="image"))
    >>> edit = probe.edit.replace(probe.Hidden(3, at="image"), clean.hidden("image"))
    """
    return Edit("replace", read, lambda values, operand: _operand(operand).expand_as(values), _checked("replace", value))


def add(read: Read, vector: Value, scale: float = 1.0) -> Edit:
    """Add a vector to what is read: steering.

    Args:
        vector: as `value` of `replace`.
        scale: multiplies the vector.

    >>> edit = probe.edit.add(probe.Hidden(5, at="answer"), torch.ones(128), scale=0.5)
    """
    factor = _checked("add", scale)
    if not isinstance(factor, float) or not math.isfinite(factor):
        raise InvalidEdit(f"add(scale={scale!r}): the scale is a finite number. Use scale() for factors that differ between features.")
    return Edit(
        "add",
        read,
        lambda values, operand: values + (_operand(operand) if factor == 1 else factor * _operand(operand)),
        _checked("add", vector),
    )


def scale(read: Read, factor: Value) -> Edit:
    """Multiply what is read by a factor.

    Args:
        factor: a number, or a tensor or Activation as `value` of `replace`.

    >>> edit = probe.edit.scale(probe.HeadOutput(4, at=None, heads=1), 0.0)
    """
    return Edit("scale", read, lambda values, operand: values * _operand(operand), _checked("scale", factor))


def apply(read: Read, function: Callable[[Tensor], Tensor]) -> Edit:
    """Pass what is read through a function.

    Args:
        function: from the values of one layer and one row, (token, feature), (head, token, feature) or for attention (head, query, key), to
            new ones of the same shape. It gets a copy, to which it may write.

    >>> edit = probe.edit.apply(probe.MLPOutput(3, at="image"), lambda states: states.clamp(min=0))
    """
    if not callable(function):
        raise InvalidEdit(f"apply() takes a function from a tensor to a tensor, got {function!r}.")
    return Edit("apply", read, lambda values, _: function(values))


def block(read: Attention) -> Edit:
    """Attention knock-out: these queries give these keys no weight, and the weights of the other keys are renormalised, as a mask does.

    Works under the kernels sdpa and eager.

    >>> y = model.encode(image, "Is there a cat?")
    >>> knock_out = probe.edit.block(probe.Attention("all", query="question", key="image"))
    >>> trace = model.run(y, probe.Attention(4, query="question", key="image"), edits=[knock_out])
    >>> float(trace.attention(layer=4).data.max())
    0.0
    """
    return Edit("block", read, None)


def _tensors(operand: Operand) -> list[Tensor]:
    if isinstance(operand, RaggedActivation):
        return [row.data for row in operand.rows()]
    return [operand.data if isinstance(operand, Activation) else torch.as_tensor(operand)]


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _operand(operand: Tensor | None) -> Tensor:
    assert operand is not None, "edits with an operand are given it"
    return operand


def _checked(name: str, operand: object) -> Operand:
    if isinstance(operand, Activation):
        return operand
    if isinstance(operand, Tensor) and not operand.is_complex():
        return operand.detach().clone()
    if isinstance(operand, (int, float, np.number)) and not isinstance(operand, (bool, np.complexfloating)):
        return float(operand)
    if isinstance(operand, np.ndarray) and operand.dtype.kind in "fiub":
        return torch.from_numpy(operand.astype(np.float64 if operand.dtype.kind != "f" else operand.dtype))
    kind = f"{operand.dtype} {type(operand).__name__}" if isinstance(operand, (Tensor, np.ndarray)) else type(operand).__name__
    raise InvalidEdit(f"{name}() takes a tensor, an array, an Activation or a number, got a {kind}.")
