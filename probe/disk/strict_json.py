"""Strict JSON: no NaN, no infinity, no repeated key, and UTF-8 whatever the strings hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import NoReturn

from probe.errors import NotFinite


def dump(values: object, *, indent: int | None = None) -> bytes:
    """Plain values as JSON in UTF-8.

    >>> dump({"name": "café", "margin": 1.5}).decode()
    '{"name": "café", "margin": 1.5}'

    Raises:
        NotFinite: one of the numbers is NaN or infinite, which JSON cannot represent.
    """
    try:
        text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        path, value = next(_not_finite(values), ("a number", "not finite"))
        raise NotFinite(f"{path} is {value}, which JSON cannot hold and which is no answer. Try float32 or bfloat16.") from error
    # A file name that is not UTF-8 holds lone surrogates: as \udc.. they are JSON's own escapes, and read back unchanged.
    return text.encode("utf-8", "backslashreplace")


def load(content: bytes) -> object:
    """The plain values of a JSON text.

    >>> load(b'{"layers": [7, 13]}')
    {'layers': [7, 13]}

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply, has a repeated key, or has a number that is not finite.
    """
    try:
        return json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _not_finite(values: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The numbers that are not finite, each with its path, such as ("classes.0.margin", nan)."""
    if isinstance(values, Mapping):
        inner = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        inner = [(str(index), value) for index, value in enumerate(values)]
    else:
        if isinstance(values, float) and not math.isfinite(values):
            yield path or "a number", values
        return
    for key, value in inner:
        yield from _not_finite(value, f"{path}.{key}" if path else key)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values
