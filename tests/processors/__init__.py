"""Tiny models of `tests.families` with the processors of their families, built offline: real vocabulary, real image processing."""

from __future__ import annotations

from functools import cache

from tests.processors import gridless, tiles, whole
from tests.processors.offline import FAMILIES, Pair

__all__ = ["FAMILIES", "Pair", "build", "gridless", "tiles", "whole"]


@cache
def build(name: str, **options: int) -> Pair:
    """The model and processor of a family; options: `tile`, pixels across the tower's input, where the family takes it."""
    return FAMILIES[name](**options)
