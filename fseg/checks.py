"""Checks of the values of a recipe: each error names the field, the value given, and the values allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from attrs import Attribute

from fseg.errors import InvalidOption
from probe.inputs.templates import encodable

LARGEST = 2**63 - 1
"""The largest integer that TOML can hold, and a tensor."""

_LONGEST = 100

Value = TypeVar("Value")
_Limits = ParamSpec("_Limits")


def checked(
    check: Callable[Concatenate[str, object, _Limits], None], *args: _Limits.args, **limits: _Limits.kwargs
) -> Callable[[object, Attribute[Value], Value], None]:
    """One of the checks below as an attrs validator; the error calls the field by its recipe key, such as "prompt.kind".

    >>> from attrs import field, frozen
    >>> @frozen
    ... class Prompt:
    ...     kind: str = field(default="both", validator=checked(check_choice, ("point", "both")))
    >>> Prompt("dot")
    Traceback (most recent call last):
    fseg.errors.InvalidOption: prompt.kind='dot': takes 'point', 'both'.
    """

    def validate(stage: object, field: Attribute[Value], value: Value) -> None:
        check(f"{type(stage).__name__.lower()}.{field.name}", value, *args, **limits)

    return validate


def check_choice(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is not one of the words allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidOption(f"{field}={shown(value)}: takes {', '.join(repr(word) for word in allowed)}.")


def check_bool(field: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidOption(f"{field}={shown(value)}: takes True or False.")


def check_text(field: str, value: object) -> None:
    """Refuse a value that is not a string, is empty, or cannot be encoded in UTF-8."""
    if not isinstance(value, str) or not value:
        raise InvalidOption(f"{field}={shown(value)}: takes a text that is not empty.")
    if not encodable(value):
        raise InvalidOption(f"{field}={shown(value)}: holds a lone surrogate, which no text file can hold.")


def check_int(field: str, value: object, at_least: int | None = None) -> None:
    """Refuse a value that is not an integer of 64 bits, or is below the smallest one allowed."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not fits or (at_least is not None and value < at_least):  # type: ignore[operator]
        raise InvalidOption(f"{field}={shown(value)}: takes a whole number" + ("." if at_least is None else f" of at least {at_least}."))


def check_number(field: str, value: object, at_least: float | None = None, at_most: float | None = None) -> None:
    """Refuse a value that is not a finite number, or lies outside the range."""
    number = _finite(value)
    if number is None or (at_least is not None and number < at_least) or (at_most is not None and number > at_most):
        limits = [f"at {side} {limit}" for side, limit in (("least", at_least), ("most", at_most)) if limit is not None]
        raise InvalidOption(f"{field}={shown(value)}: takes a finite number" + (f" of {' and '.join(limits)}." if limits else "."))


def shown(value: object) -> str:
    """A value as error messages print it: its repr, cut after 100 characters."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, deeply nested lists
        return f"a {type(value).__name__} too large to show"
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}..."


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
