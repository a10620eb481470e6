"""Reads as plain values: in a store's manifest, and in the TOML files of `probe extract`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from probe.errors import InvalidRead
from probe.tokens.spans import Span
from probe.tracing.reads import READS, Read, check_read

_KINDS = {kind.__name__: kind for kind in READS}


def values_of_read(read: Read) -> dict[str, object]:
    """The kind of a read and its fields.

    >>> from probe.store.format.read_values import values_of_read
    >>> values_of_read(probe.Hidden(4, at="image"))
    {'kind': 'Hidden', 'layers': [4], 'at': ['image'], 'normed': True}

    Raises:
        InvalidRead: not a read, or one of a kind that is not probe's own.
    """
    kind = type(check_read(read)).__name__
    if _KINDS.get(kind) is not type(read):
        raise InvalidRead(f"{read!r} cannot be kept in a store, which knows the reads {', '.join(_KINDS)}.")
    return {"kind": kind, **{field.name: _plain(getattr(read, field.name)) for field in fields(read)}}


def read_of_values(values: Mapping[str, object]) -> Read:
    """The read that `values_of_read` wrote, or that a table of a TOML file describes.

    >>> from probe.store.format.read_values import read_of_values
    >>> read_of_values({"kind": "Hidden", "layers": [3, 4], "at": "image"})
    Hidden(layers=(3, 4), at=('image',), normed=True)

    Raises:
        InvalidRead: an unknown kind, an unknown field, or a field without its value.
    """
    given = {name: _from_plain(value) for name, value in values.items() if name != "kind"}
    kind = _KINDS.get(str(values.get("kind")))
    if kind is None:
        raise InvalidRead(f"kind = {values.get('kind')!r} is no read. Reads are {', '.join(_KINDS)}.")
    known = [field.name for field in fields(kind)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidRead(f"{kind.__name__} has no {unknown[0]!r}. It has {', '.join(known)}.")
    try:
        return kind(**given)
    except TypeError as error:  # a field that has to be given is missing
        raise InvalidRead(f"{kind.__name__}: {str(error).rpartition('__init__() ')[2]}. It has {', '.join(known)}.") from error


def reads_of_toml(path: Path) -> tuple[Read, ...]:
    """The reads of a TOML file, one `[[read]]` table each, such as `kind = "Hidden"`, `layers = [4]`, `at = "image"`.

    Raises:
        InvalidRead: no such file, no TOML, or no reads in it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRead(f"{str(path)!r} is no file of reads: {reason}. Write one [[read]] table for each.") from error
    tables = values.get("read")
    if list(values) != ["read"] or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidRead(
            f'{str(path)!r} has {", ".join(values) or "nothing"}; it should have [[read]] tables, each with a kind, such as "Hidden".'
        )
    return tuple(map(read_of_values, tables))


def _plain(value: object) -> object:
    if isinstance(value, Span):
        return {"positions": list(value.positions), "name": value.name}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _from_plain(value: object) -> object:
    if isinstance(value, Mapping):
        return Span(value.get("positions", ()), str(value.get("name", "")))
    return tuple(map(_from_plain, value)) if isinstance(value, list) else value
