"""Integers as users pass them: Python's, NumPy's and torch's, one or several."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex


def as_int(value: object) -> int | None:
    """An integer, also NumPy's or a tensor or array without axes, as a Python int; None for all else, also for True and False.

    Example:
        >>> from probe.tokens.integers import as_int
        >>> as_int(torch.tensor(3)), as_int(3.0), as_int(True)
        (3, None, None)
    """
    if type(value) is int:
        return value
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return operator.index(value) if isinstance(value, SupportsIndex) else None
    except TypeError:
        return None


def as_ints(value: object) -> tuple[int, ...] | None:
    """Several integers: a range, a list, an array or tensor of one axis; None: it holds something else.

    Example:
        >>> from probe.tokens.integers import as_ints
        >>> as_ints(range(3)), as_ints(np.array([4, 5])), as_ints("67")
        ((0, 1, 2), (4, 5), None)
    """
    if isinstance(value, (tuple, list, range)) and set(map(type, value)) <= {int}:
        return tuple(value)
    if isinstance(value, str) or getattr(value, "ndim", 1) != 1 or not isinstance(value, Iterable):
        return None
    numbers = [as_int(one) for one in value]
    return tuple(number for number in numbers if number is not None) if None not in numbers else None
