"""Equality of values that hold tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class _Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def equal_values(one: object, other: object) -> bool:
    """Whether two values are equal: mappings and sequences item by item, tensors and arrays by dtype, shape and numbers.

    NaN equals NaN. Tensors on different devices are equal if their numbers are.

    Example:
        >>> from probe.tokens.equality import equal_values
        >>> equal_values({"ids": torch.tensor([1, 2])}, {"ids": torch.tensor([1, 2])})
        True
    """
    if one is other:
        return True
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and _equal_tensors(one, other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and _equal_arrays(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_values(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal_values, one, other))
    return bool(one == other)


def equal_fields(one: _Dataclass, other: _Dataclass) -> bool:
    """Whether two objects of one dataclass have equal values in all fields that take part in comparisons."""
    return all(equal_values(getattr(one, field.name), getattr(other, field.name)) for field in fields(one) if field.compare)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors agree to what the order of sums may change in their dtype, or in float32 if that is coarser.

    Most models compute rotary angles, norms and routers in float32, whatever their dtype.

    Example:
        >>> from probe.tokens.equality import near
        >>> ours = torch.ones(2, dtype=torch.float64)
        >>> near(ours, ours + 1e-6), near(ours, ours + 1e-2), near(ours.bfloat16(), (ours + 1e-2).bfloat16())
        (True, False, True)
    """
    if ours.shape != theirs.shape:
        return False
    if not theirs.numel():
        return True
    tolerance = max(1.0, float(theirs.float().abs().max())) * max(torch.finfo(theirs.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    return float((ours.float() - theirs.float()).abs().max()) <= tolerance


def _equal_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    other = other.to(one.device)
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _equal_arrays(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
