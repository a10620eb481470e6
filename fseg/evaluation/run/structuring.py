"""JSON values as attrs classes. Nothing is converted: every key and every type has to match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from cattrs import Converter, ForbiddenExtraKeysError, transform_error
from cattrs.cols import is_mapping, list_structure_factory
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]

_NAMES: dict[type, str] = {str: "a string", int: "an integer", float: "a float", bool: "true or false", list: "a list", dict: "an object"}
"""The types of JSON, as messages call them."""


def strict_converter(*, extra_keys: bool = False) -> Converter:
    """A cattrs converter that refuses values of another type instead of converting them.

    A field's annotation is one of str, int, float, bool, `object` (any value), an attrs class, `tuple[X, ...]`, `Mapping[str, X]`, or one
    of these or None.

    Args:
        extra_keys: ignore the keys of an object that its class does not have; False: refuse them.
    """
    converter = Converter(forbid_extra_keys=not extra_keys)
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _only(kind, lambda value, _: value))

    @converter.register_structure_hook_factory(attrs.has)
    def of_class(cls: type, own: Converter) -> _Hook:
        return _only(dict, make_dict_structure_fn(cls, own, _cattrs_forbid_extra_keys=not extra_keys))

    @converter.register_structure_hook_factory(is_mapping)
    def of_mapping(kind: type, own: Converter) -> _Hook:
        return _only(dict, make_mapping_structure_fn(kind, own))

    @converter.register_structure_hook_factory(_is_tuple)
    def of_tuple(kind: type, own: Converter) -> _Hook:
        as_list = list_structure_factory(kind, own)
        return _only(list, lambda values, target: tuple(as_list(values, target)))

    return converter


def structure(values: object, cls: type[T], converter: Converter, name: str) -> T:
    """Values as `strict_json.load` returns them, as an object of this class.

    Args:
        name: what a message calls the whole of the values.

    Raises:
        ValueError: the first value that does not fit, with its path, as in "record.rows['mine'].classes[0].label: not an integer".
    """
    try:
        return converter.structure(values, cls)
    except (BaseValidationError, ValueError) as error:
        reason, _, path = transform_error(error, name, _reason)[0].partition(" @ ")
        raise ValueError(f"{path}: {reason}") from error


def _is_tuple(kind: object) -> bool:
    return getattr(kind, "__origin__", None) is tuple


def _only(kind: type, hook: _Hook) -> _Hook:
    """The hook, for values of exactly this type."""

    def structure_only(value: object, target: type) -> object:
        if type(value) is not kind:
            raise ValueError(f"not {_NAMES[kind]}")
        return hook(value, target)

    return structure_only


def _reason(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown keys: {', '.join(sorted(error.extra_fields))}"
    return str(error)
