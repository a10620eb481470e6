"""Equality of objects that hold tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol

from torch import Tensor


class _Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def same_fields(one: _Dataclass, other: _Dataclass) -> bool:
    """Whether two objects of one dataclass have equal values in all fields that take part in comparisons."""
    return all(same_values(getattr(one, field.name), getattr(other, field.name)) for field in fields(one) if field.compare)


def same_values(one: object, other: object) -> bool:
    """Whether two values are equal, tensors within mappings and sequences included.

    Tensors are equal if shape, dtype and all numbers are (NaN equals NaN); the device does not count.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same_tensors(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_values(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return _same_sequences(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other


def _same_sequences(one: Sequence[object], other: Sequence[object]) -> bool:
    return type(one) is type(other) and len(one) == len(other) and all(map(same_values, one, other))


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    there = other.to(one.device)
    return bool(((one == there) | ((one != one) & (there != there))).all())
