"""Tiny models of `tests.families` with the processors of their families, built offline: real vocabulary, real image processing."""

from __future__ import annotations

from functools import cache

from tests.processors import gridless, tiles, whole
from tests.processors.offline import FAMILIES, Pair

__all__ = ["FAMILIES", "build", "gridless", "tiles", "whole"]


@cache
def build(name: str) -> Pair:
    """The model and processor of a family."""
    return FAMILIES[name]()
