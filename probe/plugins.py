"""Plug-ins: what other packages register under an entry-point group. One that fails costs the others nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from probe.errors import ProbeError

T = TypeVar("T")

_LONGEST = 200


class PlugIns:
    """The entry points of a group, each loaded once, when it is first needed.

    A package that fails, in whatever way, gives one warning that names it and says why; the others go on.

    Args:
        group: the group's name.
        entries: its entry points.

    Attributes:
        failed: for each entry point that cannot be used the reason, a sentence.
    """

    def __init__(self, group: str, entries: Iterable[EntryPoint]) -> None:
        self.group, self.entries = group, tuple(entries)
        self.failed: dict[EntryPoint, str] = {}
        self._made: dict[EntryPoint, Any] = {}
        self._loading: set[EntryPoint] = set()

    def use(self, entry: EntryPoint, make: Callable[[object], T]) -> T | None:
        """What `make` returns for the object that the entry point names; it is called once and its result kept.

        Returns:
            None where the entry point fails, or is being loaded further up the stack, by code of its own package that called us.
        """
        if entry not in self._made:
            made = self._attempt(entry, lambda: make(entry.load()))
            if made is None:
                return None
            self._made[entry] = made
        kept: T = self._made[entry]
        return kept

    def load_all(self) -> None:
        """Import every package of the group, for what it registers elsewhere when it is imported."""
        for entry in self.entries:
            self._attempt(entry, entry.load)

    def loading(self) -> bool:
        """Whether a package of the group is being imported further up the stack."""
        return any(map(self._is_loading, self.entries))

    def failures(self) -> str:
        """The reasons of all that failed, to end an error's message with; "" where none did."""
        return "".join(f" {reason}" for reason in self.failed.values())

    def _attempt(self, entry: EntryPoint, action: Callable[[], T]) -> T | None:
        if entry in self.failed or self._is_loading(entry):
            return None
        # What a package asks of one that is half imported, it may find there later: such a failure is not kept.
        final = not self.loading()
        self._loading.add(entry)
        try:
            return action()
        except (Exception, SystemExit) as error:  # the code of another package, which can fail in any way
            if final:
                self.failed[entry] = _reason(self.group, entry, error)
                warnings.warn(f"{self.failed[entry]} Everything else goes on without it.", stacklevel=4)
            return None
        finally:
            self._loading.discard(entry)

    def _is_loading(self, entry: EntryPoint) -> bool:
        spec = getattr(sys.modules.get(entry.module), "__spec__", None)
        return entry in self._loading or bool(getattr(spec, "_initializing", False))


def _reason(group: str, entry: EntryPoint, error: BaseException) -> str:
    package = entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
    place = f'The entry point {entry.name} = "{entry.value}" (package {package}) of the group {group}'
    if isinstance(error, ProbeError):
        return f"{place} cannot be used: {error}"
    text = " ".join(str(error).split())
    return f"{place} cannot be imported: {type(error).__name__}: {text[:_LONGEST]}. Mend or uninstall its package."
