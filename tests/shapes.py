"""Shapes and dtypes in annotations, checked whenever a test calls the function: jaxtyping reads them, beartype compares.

The other annotations are mypy's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jaxtyping
from beartype import beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]

Function = TypeVar("Function", bound=Callable[..., object])

_DTYPES = [name for name in dir(jaxtyping) if isinstance(getattr(jaxtyping, name), type) and hasattr(getattr(jaxtyping, name), "dtypes")]
_SHAPED = re.compile(rf"\b({'|'.join(_DTYPES)})\[")


def check_shapes(function: Function) -> Function:
    """The function, with its annotations of shape and dtype checked at each call."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _SHAPED.search(_written(hint))}
    return beartype(function)


def _written(hint: object) -> str:
    return hint if isinstance(hint, str) else repr(hint)


def install() -> None:
    """Check the functions of all modules that annotate shapes, from now on. To be called before they are imported."""
    install_import_hook(sorted(_modules_with_shapes()), "tests.shapes.check_shapes")


def _modules_with_shapes() -> Iterator[str]:
    for package in ("probe", "fseg"):
        for path in (ROOT / package).rglob("*.py"):
            if "from jaxtyping import" in path.read_text(encoding="utf-8"):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts)
