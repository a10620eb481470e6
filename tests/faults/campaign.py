"""Campaign: one kind of fault, tried many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What one trial ended in.

    Attributes:
        verdict: a few words that trials with the same end share, such as "refused" or "same counts".
        fault: what must not happen and did, with enough detail to repeat it; "" where all is well.
    """

    verdict: str
    fault: str = ""


@dataclass(frozen=True)
class Campaign:
    """One kind of fault.

    Attributes:
        name: for the command line and the test's id.
        what: what is tried, as the report says it.
        full, short: how many trials the command and the test suite make.
        trials: yields that many outcomes; gets an empty folder to work in and a generator with a fixed seed.
    """

    name: str
    what: str
    full: int
    short: int
    trials: Callable[[int, Path, np.random.Generator], Iterator[Outcome]]
