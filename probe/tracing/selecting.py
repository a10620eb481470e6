"""Labels and places of an axis, as `Activation.sel` and `Activation.isel` are given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probe.errors import NotRead
from probe.tokens.integers import as_int, as_ints


def numbers_of(given: Any, what: str, where: str) -> tuple[tuple[int, ...], bool]:
    """One integer or several, and whether it is one.

    Raises:
        NotRead: it is neither.
    """
    single = as_int(given)
    several = (single,) if single is not None else as_ints(given)
    if several is None:
        raise NotRead(f"{what} was asked for; {where} takes an integer, several of them, or a slice.")
    return several, single is not None


def place_of(label: int, known: Sequence[int], dim: str) -> int:
    """The place of a label; a negative one counts from the last.

    Raises:
        NotRead: there is none, or several.
    """
    if -len(known) <= label < 0:
        return len(known) + label
    found = [place for place, other in enumerate(known) if other == label]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotRead(
            f"{dim} {label} is there {len(found)} times, at the places {listed(tuple(found))}. Choose one, as by isel({dim}={found[0]})."
        )
    raise NotRead(f"{dim} {label} was asked for; this activation has {dim} {listed(tuple(known))}.")


def labels_between(label: slice, known: Sequence[int], dim: str) -> list[int]:
    """The places of the labels from a slice's start up to its stop.

    Raises:
        NotRead: it has a step, a negative number, or no integers.
    """
    low = 0 if label.start is None else as_int(label.start)
    high = max(known, default=0) + 1 if label.stop is None else as_int(label.stop)
    if label.step is not None or low is None or high is None or min(low, high) < 0:
        raise NotRead(
            f"sel({dim}={label}): a slice of labels has no step and nothing negative. Take places, as by isel({dim}=slice(-2, None))."
        )
    return [place for place, other in enumerate(known) if low <= other < high]


def slice_of(place: slice, size: int, dim: str) -> range:
    """The places that a slice takes of an axis.

    Raises:
        NotRead: it has no integers, or a step of 0.
    """
    try:
        return range(size)[place]
    except (TypeError, ValueError) as error:
        raise NotRead(f"isel({dim}={place}): a slice has integers, and a step that is not 0.") from error


def listed(numbers: Sequence[int], most: int = 12) -> str:
    """`3, 5, 7` or, of a long run, `0 to 31`."""
    if len(numbers) > most and tuple(numbers) == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
