"""From labels and indices, as `Activation.sel` and `Activation.isel` take them, to indices of an axis."""

from __future__ import annotations

from collections.abc import Sequence

from probe.errors import NotRead
from probe.tokens.integers import as_int, as_ints
from probe.tracing.activation.conversion import NAMED


def as_indices(indices: object, description: str, method: str) -> tuple[tuple[int, ...], bool]:
    """The integers of `indices`, and whether it was a single one.

    Args:
        description, method: for messages: what was asked for, and of which method.

    Raises:
        NotRead: neither an integer nor several.
    """
    if indices is None:
        raise NotRead(f"{description} would add an axis, and an activation's axes all have names. Index the tensor itself: .data[None].")
    single = as_int(indices)
    several = (single,) if single is not None else as_ints(indices)
    if several is None:
        raise NotRead(f"{description} was asked for; {method} takes an integer, several in a list, or a slice.")
    return several, single is not None


def as_labels(label: object, dim: str, words: Sequence[str], known: Sequence[int]) -> object:
    """The labels that names stand for on the axis `word` or `place`; anything else as it is.

    Raises:
        NotRead: a name that is not there, or occurs several times.
    """
    if dim not in NAMED:
        return label
    if isinstance(label, str):
        if words.count(label) != 1:
            found = f"has {', '.join(map(repr, words)) or f'no {dim}s by name'}"
            raise NotRead(f"{dim} {label!r} was asked for; this activation {found}.{' Choose one by isel().' if label in words else ''}")
        return known[words.index(label)]
    if isinstance(label, (list, tuple)):
        return [as_labels(one, dim, words, known) for one in label]
    return label


def index_of_label(label: int, known: Sequence[int], dim: str) -> int:
    """The index of a label; a negative one counts from the last.

    Raises:
        NotRead: the label does not occur, or occurs several times.
    """
    if -len(known) <= label < 0:
        return len(known) + label
    indices = [index for index, other in enumerate(known) if other == label]
    if len(indices) == 1:
        return indices[0]
    if indices:
        raise NotRead(
            f"{dim} {label} occurs {len(indices)} times, at the indices {listed(indices)}. Choose one, as by isel({dim}={indices[0]})."
        )
    raise NotRead(f"{dim} {label} was asked for; this activation has {dim} {listed(tuple(known))}.")


def indices_of_labels(label: slice, known: Sequence[int], dim: str) -> list[int]:
    """The indices of the labels from a slice's start up to its stop.

    Raises:
        NotRead: it has a step, a negative number, or no integers.
    """
    low = 0 if label.start is None else as_int(label.start)
    high = max(known, default=0) + 1 if label.stop is None else as_int(label.stop)
    if label.step is not None or low is None or high is None or min(low, high) < 0:
        raise NotRead(
            f"sel({dim}={label}): a slice of labels has no step and nothing negative. Take indices, as by isel({dim}=slice(-2, None))."
        )
    return [index for index, other in enumerate(known) if low <= other < high]


def indices_of_slice(indices: slice, size: int, dim: str) -> range:
    """The indices that a slice takes of an axis.

    Raises:
        NotRead: it has no integers, or a step of 0.
    """
    try:
        return range(size)[indices]
    except (TypeError, ValueError) as error:
        raise NotRead(f"isel({dim}={indices}): a slice has integers, and a step that is not 0.") from error


def listed(numbers: Sequence[int], limit: int = 12) -> str:
    """`3, 5, 7` or, for a long run, `0 to 31`: numbers for messages."""
    if len(numbers) > limit and tuple(numbers) == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
