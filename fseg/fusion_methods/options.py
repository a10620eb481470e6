"""Options of fusions: values that a recipe can hold, and bands of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from fseg.checks import LARGEST, check_bool, check_int, check_number, shown
from fseg.errors import InvalidBand, InvalidOption
from probe.inputs.templates import encodable

Option = bool | int | float | str | tuple["Option", ...] | None

MOST_LAYERS = 10_000
"""One more than the last layer that a band may name: no model is as deep."""

RESERVED = ("fusion", "view")
"""Keys of the respond stage beside the fusion's options."""

MOST_NESTED = 8
"""How deep an option's lists may be nested."""


class Options(Mapping[str, Option]):
    """Options of a fusion: an immutable, hashable mapping; lists become tuples.

    >>> from fseg.fusion_methods.options import Options
    >>> Options({"layers": [7, 13], "alpha": 0.75})
    {'layers': (7, 13), 'alpha': 0.75}
    """

    __slots__ = ("_items",)

    def __init__(self, values: Mapping[str, object] = MappingProxyType({})) -> None:
        self._items = tuple((name, _frozen(name, value)) for name, value in values.items())

    def __getitem__(self, name: str) -> Option:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return repr(dict(self._items))


def _frozen(name: str, value: object, depth: int = 0) -> Option:
    match value:
        case list() | tuple() if depth < MOST_NESTED:
            return tuple(_frozen(name, item, depth + 1) for item in value)
        case None if depth == 0:
            return None
        case bool() | float():
            return value
        case int() if abs(value) <= LARGEST:
            return value
        case str() if encodable(value):
            return value
    raise InvalidOption(
        f"{name}={shown(value)}: a recipe can hold True or False, a number of at most 64 bits, a text, or a list of these, "
        f"in at most {MOST_NESTED} lists."
    )


def checked_option(name: str, value: Option, default: Option) -> Option:
    """A value of an option, of the same kind as its default.

    Raises:
        InvalidOption: it is of another kind.
    """
    match default:
        case bool():
            check_bool(name, value)
        case int():
            check_int(name, value)
        case float():
            check_number(name, value)
            return float(value)  # type: ignore[arg-type]
        case str() | tuple():
            if not isinstance(value, type(default)):
                wanted = "a text" if isinstance(default, str) else "a list"
                raise InvalidOption(f"{name}={shown(value)}: takes {wanted}, such as its default {default!r}.")
    return value


def band(layers: Sequence[float]) -> range:
    """The layers of a band (first, last), both included: (7, 13) is the paper's l_s = 7 to l_e = 13.

    >>> fseg.band((7, 13))
    range(7, 14)

    Raises:
        InvalidBand: not two whole numbers with 0 <= first <= last < 10,000; or shares, which are layers only in a model.
    """
    if are_shares(layers):
        raise InvalidBand(
            f"layers={shown(layers)}: shares are layers only in a model of known depth. A Segmenter knows it; recipe.at_depth(32) gives the "
            "recipe for 32 layers."
        )
    match layers:
        case (int(first), int(last)) if 0 <= first <= last < MOST_LAYERS and not isinstance(first, bool) and not isinstance(last, bool):
            return range(first, last + 1)
    raise InvalidBand(
        f"layers={shown(layers)}: a band is (first, last), both included, with 0 <= first <= last < {MOST_LAYERS}, such as (7, 13); or in "
        "shares of the model's depth, from 0.0 to 1.0, such as (0.22, 0.41)."
    )


def are_shares(layers: object) -> bool:
    """Whether a band is given in shares of the depth: two numbers in order from 0.0 to 1.0, at least one of them not whole by its type.

    >>> from fseg.fusion_methods.options import are_shares
    >>> are_shares((0.22, 0.41)), are_shares((0, 1)), are_shares((0.0, 1.0))
    (True, False, True)
    """
    match layers:
        case (int() | float() as first, int() | float() as last) if isinstance(first, float) or isinstance(last, float):
            return not isinstance(first, bool) and not isinstance(last, bool) and 0 <= first <= last <= 1
    return False


def band_at_depth(shares: tuple[float, float], depth: int) -> tuple[int, int]:
    """A band in shares of the depth as layers: (0.22, 0.41) of 32 layers are the paper's (7, 13).

    >>> from fseg.fusion_methods.options import band_at_depth
    >>> band_at_depth((0.22, 0.41), 32), band_at_depth((0.22, 0.41), 40)
    ((7, 13), (9, 16))
    """
    first, last = shares
    return round(first * depth), round(last * depth)


def blocks(layers: Sequence[float]) -> range:
    """The decoder blocks, counted from 0, that write the hidden states of a band: (7, 13) are blocks 6 to 12.

    >>> from fseg.fusion_methods.options import blocks
    >>> blocks((7, 13))
    range(6, 13)

    Raises:
        InvalidBand: see `band`; or it holds the embeddings alone, which no block writes.
    """
    written = band(layers)
    if written.stop < 2:
        raise InvalidBand(f"layers={shown(layers)}: index 0 is the embeddings, which no block writes. Take a band from 1 on.")
    return range(max(written.start, 1) - 1, written.stop - 1)
