"""Checks of what an author writes into a stage or a recipe: each says which field, what was given, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from fseg.errors import InvalidOption


def one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is not one of the words allowed."""
    if value not in allowed:
        raise InvalidOption(f"{field}={value!r}: takes {', '.join(repr(word) for word in allowed)}.")


def flag(field: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidOption(f"{field}={value!r}: takes True or False.")


def whole(field: str, value: object, at_least: int | None = None) -> None:
    """Refuse a value that is not a whole number, or is below the smallest one allowed."""
    if isinstance(value, bool) or not isinstance(value, int) or (at_least is not None and value < at_least):
        raise InvalidOption(f"{field}={value!r}: takes a whole number" + ("." if at_least is None else f" of at least {at_least}."))


def number(field: str, value: object, at_least: float | None = None) -> None:
    """Refuse a value that is not a finite number, or is below the smallest one allowed."""
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if not finite or (at_least is not None and value < at_least):  # type: ignore[operator]
        raise InvalidOption(f"{field}={value!r}: takes a finite number" + ("." if at_least is None else f" of at least {at_least}."))
