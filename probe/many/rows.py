"""RowWork: work on inputs as rows of a batch, which is compared with work on single inputs before it is trusted."""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from probe.many.joining import Joined, kind_of
from probe.runtime import Runtime

Result = TypeVar("Result")


class Row(Protocol):
    """An input that may become a row of a batch."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Its own inputs, of one row."""

    @property
    def reason(self) -> str:
        """Why it shares no batch; "" if it may."""


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass
class Findings:
    """What the batches of one model have shown.

    Attributes:
        exact: kinds of batches whose rows were those of inputs alone.
        reasons: kinds of batches whose rows were not -> why.
    """

    exact: set[Hashable] = field(default_factory=set)
    reasons: dict[Hashable, str] = field(default_factory=dict)


_FINDINGS: weakref.WeakKeyDictionary[Runtime, Findings] = weakref.WeakKeyDictionary()


class RowWork(ABC, Generic[AnyRow, Result]):
    """Work on inputs as rows of a batch.

    Before batches of one kind are trusted, the first one's most padded row and its last are compared with work on these alone. A batch that
    changes what its rows give is taken apart: into inputs of equal shapes if it was padded, else into single ones; a warning says why.
    """

    name: str
    """The method's, for messages."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._findings = _FINDINGS.setdefault(runtime, Findings())
        self._said: set[str] = set()

    @abstractmethod
    def alone(self, row: AnyRow) -> Result:
        """The result of one input alone."""

    @abstractmethod
    def joined(self, batch: Sequence[AnyRow]) -> Joined:
        """Their inputs as one batch."""

    @abstractmethod
    def together(self, batch: Sequence[AnyRow], joined: Joined, *, trusted: bool) -> list[Result] | str:
        """The results of all rows of a batch; or why these cannot be told apart.

        Args:
            trusted: False: `agrees` is asked about the results.
        """

    @abstractmethod
    def agrees(self, result: Result, row: AnyRow) -> bool:
        """Whether a result of a batch is what the input gives alone, but for the order of sums."""

    def kept(self, result: Result) -> Result:
        """What of a result is given; the rest was there for `agrees`."""
        return result

    @abstractmethod
    def kind(self, batch: Sequence[AnyRow]) -> Hashable:
        """What a comparison depends on beside the inputs."""

    def run(self, batch: Sequence[AnyRow]) -> list[Result]:
        """The result of each row, as it is alone."""
        if len(batch) == 1:
            self._say(batch[0].reason)
            return [self.alone(batch[0])]
        joined = self.joined(batch)
        key = (
            self.name,
            self.kind(batch),
            kind_of(batch[0].inputs, self.runtime.backbone),
            joined.padded,
            self.runtime.model.config._attn_implementation,
        )
        if key not in self._findings.reasons:
            results = self.together(batch, joined, trusted=key in self._findings.exact)
            if not isinstance(results, str) and self._trusted(key, batch, joined, results):
                return [self.kept(result) for result in results]
            self._findings.reasons[key] = (
                results if isinstance(results, str) else "padding or other rows of a batch change what this model computes"
            )
        self._say(self._findings.reasons[key])
        return self._apart(batch, padded=bool(joined.padded))

    def _trusted(self, key: Hashable, batch: Sequence[AnyRow], joined: Joined, results: Sequence[Result]) -> bool:
        if key not in self._findings.exact:
            lengths = [sum(row.inputs[name].numel() for name in joined.padded if name in row.inputs) for row in batch]
            compared = {lengths.index(min(lengths)), len(batch) - 1}
            if not all(self.agrees(results[number], batch[number]) for number in compared):
                return False
            self._findings.exact.add(key)
        return True

    def _apart(self, batch: Sequence[AnyRow], *, padded: bool) -> list[Result]:
        """The results of a batch that cannot be run as it is."""
        groups: dict[Hashable, list[int]] = {}
        for number, row in enumerate(batch):
            groups.setdefault(shapes(row.inputs) if padded else number, []).append(number)
        results = {
            number: result
            for numbers in groups.values()
            for number, result in zip(numbers, self.run([batch[number] for number in numbers]), strict=True)
        }
        return [results[number] for number in range(len(batch))]

    def _say(self, reason: str) -> None:
        if reason and reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"{self.name}() runs inputs one by one, or only those of equal shapes together: {reason}.", stacklevel=2)


def shapes(inputs: Mapping[str, Tensor]) -> Hashable:
    """The names and shapes of an input."""
    return tuple((name, getattr(value, "shape", None)) for name, value in sorted(inputs.items()))
