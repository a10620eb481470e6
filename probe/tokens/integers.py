"""Integers as users pass them: Python's, NumPy's and torch's, one or several."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def as_int(value: Any) -> int | None:
    """An integer, also NumPy's or a tensor or array without axes, as a Python int; None: it is none, as True and False are not."""
    if type(value) is int:
        return value
    array: Any = value
    if isinstance(array, bool) or "bool" in str(getattr(array, "dtype", "")) or getattr(array, "ndim", 0) != 0:
        return None
    try:
        return operator.index(array)
    except TypeError:
        return None


def as_ints(value: Any) -> tuple[int, ...] | None:
    """Several integers: a range, a list, an array or tensor of one axis; None: it holds something else."""
    if isinstance(value, str) or getattr(value, "ndim", 1) != 1 or not isinstance(value, Iterable):
        return None
    numbers = [as_int(one) for one in value]
    return tuple(number for number in numbers if number is not None) if None not in numbers else None
