"""The little TOML that a recipe needs to be written in; reading is tomllib's."""

from __future__ import annotations

import json
from collections.abc import Mapping


def dumps(values: Mapping[str, object]) -> str:
    """Scalars, lists of them, and one level of tables, as TOML text. What is None is left out: TOML has no word for it.

    `tomllib.loads` gives the same values back, with lists for tuples.
    """
    top = [(key, value) for key, value in values.items() if not isinstance(value, Mapping)]
    tables = [(key, value) for key, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([_lines(dict(top)), *(f"[{_key(key)}]\n{_lines(value)}" for key, value in tables)])


def _lines(values: Mapping[str, object]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items() if value is not None)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _text(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return int.__repr__(value)  # of NumPy's numbers and of enumerations too
        case float():
            return float.__repr__(value)
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"{type(value).__name__} has no TOML form here")


def _text(text: str) -> str:
    # JSON escapes what TOML's basic strings must escape, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
