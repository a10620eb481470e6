"""The packages that bring recipes and fusions of their own, by the entry-point group `fseg.recipes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from probe.plugins import PlugIns

GROUP = "fseg.recipes"


def packages() -> PlugIns:
    """The entry points of the group; read once, since looking through all installed packages takes milliseconds."""
    return _read_by(entry_points)


@cache
def _read_by(read: Callable[..., Iterable[EntryPoint]]) -> PlugIns:
    return PlugIns(GROUP, read(group=GROUP))
