"""Equality of values that hold tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray


def equal_values(one: object, other: object) -> bool:
    """Whether two values are equal, tensors and arrays in them included.

    Mappings and sequences are compared item by item; tensors by dtype, device, shape and elements; NumPy arrays likewise.

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
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and _equal_arrays(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_values(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal_values, one, other))
    return bool(one == other)


def _equal_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    # torch.equal raises for tensors of different dtypes or devices.
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _equal_arrays(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)
