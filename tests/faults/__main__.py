"""`python -m tests.faults`: run the campaigns in their full form, print what was tried and what was found."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from transformers.utils import logging

from tests.faults import campaigns

MOST_SHOWN = 10


def main(
    n: Annotated[int | None, typer.Option("--n", min=1, help="Trials of each campaign; left out: its full number.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="The name of a campaign, once or several times.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
) -> None:
    """Damage files, kill processes, plant nonsense, and print what came of it. Exits with 1 if anything happened that must not."""
    known = {campaign.name: campaign for campaign in campaigns()}
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise typer.BadParameter(f"no campaign {unknown[0]!r}; there are {', '.join(known)}")
    logging.set_verbosity_error()  # what transformers says of each damaged file
    logging.disable_progress_bar()
    faults: list[str] = []
    print(f"{'campaign':<18} {'tried':>6}  {'faults':>6}  {'s':>5}  what was tried, and how it ended", flush=True)
    for campaign in (known[name] for name in only or known):
        started = time.perf_counter()
        with TemporaryDirectory() as folder:
            outcomes = list(campaign.trials(n or campaign.full, Path(folder), np.random.default_rng(seed)))
        found = [f"{campaign.name}: {outcome.fault}" for outcome in outcomes if outcome.fault]
        ends = ", ".join(f"{count} {verdict}" for verdict, count in Counter(outcome.verdict for outcome in outcomes).most_common())
        seconds = time.perf_counter() - started
        print(f"{campaign.name:<18} {len(outcomes):>6}  {len(found):>6}  {seconds:>5.0f}  {campaign.what}: {ends}", flush=True)
        faults += found
    for fault in faults[:MOST_SHOWN]:
        print(f"FAULT {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
