"""Single bits of a record file, flipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fseg.errors import RunMismatch
from fseg.evaluation.run.runner import evaluate
from tests.faults.campaign import Campaign, Outcome
from tests.unit.fseg.evaluation.runs import job_of, saved, scenes


def flips(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """A finished run, one bit of its records flipped, and started again: refused, or ended with the same results."""
    job = job_of(scenes(folder / "set"), *saved(folder), limit=4)
    whole = evaluate(job, folder / "out")
    path = folder / "out/records/worker-0.jsonl"
    records = path.read_bytes()
    bits = rng.choice(8 * len(records), n, replace=n > 8 * len(records))
    # The last line end is the one place where a flip looks like a line that a kill tore: it is tried in every form of the campaign.
    for bit in [8 * (len(records) - 1), *bits[1:].tolist()]:
        damaged = bytearray(records)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            results = evaluate(job, folder / "out")
        except RunMismatch:
            yield Outcome("refused", "" if path.read_bytes() == damaged else f"bit {bit}: refused, and the file was changed")
        except Exception as error:  # whatever else comes out is what the campaign looks for
            yield Outcome("raw error", f"bit {bit}: {type(error).__name__}: {error}")
        else:
            verdict = "repaired, the same results" if path.read_bytes() == records else "read as it was"
            yield Outcome(verdict, "" if results == whole else f"bit {bit}: other results")


CAMPAIGNS = [Campaign("record-flips", "one bit of a record file", full=4000, short=50, trials=flips)]
