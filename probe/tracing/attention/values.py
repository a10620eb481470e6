"""The tensor among the values that a module takes or returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor
from transformers.utils import ModelOutput


def with_first_tensor(value: object, tensor: Tensor) -> object:
    """A module's input or output with another tensor in the place of `first_tensor`."""
    if isinstance(value, Tensor):
        return tensor
    if isinstance(value, ModelOutput):
        changed = type(value)(**value)
        changed[next(iter(value))] = tensor
        return changed
    _, *rest = cast(Sequence[object], value)
    return type(value)((tensor, *rest))  # type: ignore[call-arg]


def first_tensor(value: object) -> Tensor:
    """The tensor that a module takes or returns: the value itself, or the first of several."""
    return value if isinstance(value, Tensor) else cast(Sequence[Tensor], value)[0]
