"""Equality of values that hold tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def equal_values(one: object, other: object) -> bool:
    """Whether two values are equal: mappings and sequences item by item, tensors by dtype, device, shape and elements.

    A tensor equals itself even if it holds NaN.

    Example:
        >>> from probe.tokens.equality import equal_values
        >>> equal_values({"ids": torch.tensor([1, 2])}, {"ids": torch.tensor([1, 2])})
        True
    """
    if one is other:
        return True
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and _equal_tensors(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_values(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal_values, one, other))
    return bool(one == other)


def _equal_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    # torch.equal raises for tensors of different dtypes or devices.
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
