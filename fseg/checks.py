"""Checks of what an author writes into a stage or a recipe: each says which field, what was given, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fseg.errors import InvalidOption
from probe.inputs.templates import encodable

LARGEST = 2**63 - 1
"""The largest whole number that TOML can hold, and a tensor."""

_LONGEST = 100


def one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is not one of the words allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidOption(f"{field}={shown(value)}: takes {', '.join(repr(word) for word in allowed)}.")


def flag(field: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidOption(f"{field}={shown(value)}: takes True or False.")


def text(field: str, value: object) -> None:
    """Refuse a value that is no text, is empty, or has no form in UTF-8."""
    if not isinstance(value, str) or not value:
        raise InvalidOption(f"{field}={shown(value)}: takes a text that is not empty.")
    if not encodable(value):
        raise InvalidOption(f"{field}={shown(value)}: holds a lone surrogate, which no file of text can hold.")


def whole(field: str, value: object, at_least: int | None = None) -> None:
    """Refuse a value that is not a whole number of 64 bits, or is below the smallest one allowed."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not fits or (at_least is not None and value < at_least):  # type: ignore[operator]
        raise InvalidOption(f"{field}={shown(value)}: takes a whole number" + ("." if at_least is None else f" of at least {at_least}."))


def number(field: str, value: object, at_least: float | None = None, at_most: float | None = None) -> None:
    """Refuse a value that is not a finite number, or lies outside the range."""
    finite = _finite(value)
    if finite is None or (at_least is not None and finite < at_least) or (at_most is not None and finite > at_most):
        limits = [f"at {side} {limit}" for side, limit in (("least", at_least), ("most", at_most)) if limit is not None]
        raise InvalidOption(f"{field}={shown(value)}: takes a finite number" + (f" of {' and '.join(limits)}." if limits else "."))


def shown(value: object) -> str:
    """A value as a message shows it: not too long, and whatever it is."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return f"a {type(value).__name__} too large to show"
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}..."


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
