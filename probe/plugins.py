"""Plug-ins: objects that other packages register under an entry-point group. A package that fails does not affect the others."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from typing import TypeVar, cast

from probe.errors import ProbeError

T = TypeVar("T")

_LONGEST = 200  # characters of another package's error message


class PlugIns:
    """The entry points of a group, each loaded once, when it is first needed.

    A package that fails, in whatever way, causes one warning that names it and says why; the others are used.

    Args:
        group: the group's name.
        entries: its entry points.

    Attributes:
        failed: for each entry point that cannot be used the reason, a sentence.

    Example:
        >>> from importlib.metadata import EntryPoint
        >>> from probe.plugins import PlugIns
        >>> entry = EntryPoint("pi", "math:pi", "doctest")
        >>> PlugIns("doctest", [entry]).use(entry, lambda pi: round(pi, 2))
        3.14
    """

    def __init__(self, group: str, entries: Iterable[EntryPoint]) -> None:
        self.group, self.entries = group, tuple(entries)
        self.failed: dict[EntryPoint, str] = {}
        self._results: dict[EntryPoint, object] = {}
        self._loading: set[EntryPoint] = set()

    def use(self, entry: EntryPoint, make: Callable[[object], T]) -> T | None:
        """The result of `make` for the object that the entry point names; `make` is called once and its result kept.

        Returns:
            None if the entry point fails, or is being loaded further up the stack, by code of its own package that called this.
        """
        if entry not in self._results:
            result = self._attempt(entry, lambda: make(entry.load()))
            if result is None:
                return None
            self._results[entry] = result
        return cast(T, self._results[entry])

    def load_all(self) -> None:
        """Import every package of the group, for the side effect of registering something."""
        for entry in self.entries:
            self._attempt(entry, entry.load)

    def loading(self) -> bool:
        """Whether a package of the group is being imported further up the stack."""
        return any(map(self._is_loading, self.entries))

    def failures(self) -> str:
        """The reasons of all that failed, for the end of an error's message; "" if none did."""
        return "".join(f" {reason}" for reason in self.failed.values())

    def _attempt(self, entry: EntryPoint, action: Callable[[], T]) -> T | None:
        if entry in self.failed or self._is_loading(entry):
            return None
        # While another package is half imported, a name may be missing that will be there later: such a failure is not kept.
        final = not self.loading()
        self._loading.add(entry)
        try:
            return action()
        except (Exception, SystemExit) as error:  # code of another package raises exceptions of any type
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
    origin = f'The entry point {entry.name} = "{entry.value}" (package {package}) of the group {group}'
    if isinstance(error, ProbeError):
        return f"{origin} cannot be used: {error}"
    text = " ".join(str(error).split())
    return f"{origin} cannot be imported: {type(error).__name__}: {text[:_LONGEST]}. Mend or uninstall its package."
