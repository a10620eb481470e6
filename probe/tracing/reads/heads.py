"""Attention heads as users write them, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from probe.errors import InvalidRead
from probe.tokens.integers import as_int, as_ints

Heads = int | Sequence[int] | Literal["all", "mean"]
"""One head, several, all of them, or their mean."""


def as_heads(heads: object, read: str, *, mean: bool = False) -> tuple[int, ...] | Literal["all", "mean"]:
    """Head numbers as a tuple, each once; "all" and "mean" stay as they are.

    Args:
        read: name of the read, for messages.
        mean: whether the read offers the mean over heads.

    Raises:
        InvalidRead: not heads.
    """
    if isinstance(heads, str):
        if heads == "all":
            return "all"
        if heads == "mean" and mean:
            return "mean"
    single = as_int(heads)
    numbers = as_ints(heads) if single is None else (single,)
    if isinstance(heads, str) or not numbers or min(numbers) < 0:
        named = '"all" or "mean"' if mean else '"all"'
        raise InvalidRead(f"{read}(heads={heads!r}): heads is a number from 0, a list of numbers, {named}.")
    return tuple(dict.fromkeys(numbers))
