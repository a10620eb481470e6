"""JSON as its standard has it: no NaN, no infinity, no key twice, and UTF-8 whatever the strings hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from probe.errors import NotFinite


def dump(values: Any, *, indent: int | None = None) -> bytes:
    """Plain values as JSON in UTF-8.

    Raises:
        NotFinite: one of the numbers is NaN or infinite, which JSON has no word for.
    """
    try:
        text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        place, value = next(_not_finite(values), ("a number", "not finite"))
        raise NotFinite(f"{place} is {value}, which JSON cannot hold and which is no answer. Try float32 or bfloat16.") from error
    # A file name that is not UTF-8 holds lone surrogates: as \udc.. they are JSON's own escapes, and read back as they were.
    return text.encode("utf-8", "backslashreplace")


def load(content: bytes) -> Any:
    """The plain values of JSON.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply, has a key twice, or has a number that is not finite.
    """
    try:
        return json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _not_finite(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers that are not finite, each with its place, such as ("classes.0.margin", nan)."""
    if isinstance(values, Mapping):
        inner = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        inner = [(str(index), value) for index, value in enumerate(values)]
    else:
        if isinstance(values, float) and not math.isfinite(values):
            yield place or "a number", values
        return
    for key, value in inner:
        yield from _not_finite(value, f"{place}.{key}" if place else key)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values
