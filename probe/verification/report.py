"""The results of a verification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        what: the read, and the tensor that it was compared with.
        difference: largest absolute difference; for a grid, the share of cells that changed another token more than their own.
        tolerance: the largest difference that passes.
        why: the reason for the tolerance.
        note: for a comparison that failed, the result of its repetition in float64.

    >>> from probe.verification import Check
    >>> Check("Logits", difference=0.01, tolerance=0.0, why="the same kernel on the same inputs").passed
    False
    """

    what: str
    difference: float
    tolerance: float
    why: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The checks of one model; prints as a table.

    Attributes:
        model: the model that was verified.
        checks: in the order in which they were made.
        left_out: reads that this model does not have -> the reason.
        unchecked: checks that could not be made on this image -> the reason.

    >>> from probe.verification import Check, Report
    >>> print(Report("a model", (Check("Logits", 0.0, 0.0, "the same kernel"),), {"Vision": "no vision tower was found"}))
    a model
      pass  Logits  0.0e+00 <= 0e+00  the same kernel
      none  Vision: no vision tower was found
    """

    model: str
    checks: tuple[Check, ...]
    left_out: Mapping[str, str]
    unchecked: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check could be made, and passed."""
        return not self.unchecked and all(check.passed for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.what) for check in self.checks)
        lines = [self.model]
        for check in self.checks:
            verdict = "pass" if check.passed else "FAIL"
            lines.append(f"  {verdict}  {check.what:<{width}}  {check.difference:.1e} <= {check.tolerance:.0e}  {check.why}")
            if check.note:
                lines.append(f"        {check.note}")
        lines += [f"  none  {what}: {reason}" for what, reason in self.left_out.items()]
        lines += [f"  FAIL  {what} could not be checked: {reason}" for what, reason in self.unchecked.items()]
        return "\n".join(lines)
