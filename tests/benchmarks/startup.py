"""`python -m tests.benchmarks.startup`: how long a command takes to start, as a ratio to `import torch`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

TORCH = "import torch"
FSEG, PROBE = "from fseg.cli import main; main()", "from probe.cli import main; main()"
COMMANDS = ("demo", "segment", "figure", "recipes", "datasets", "eval", "merge", "ablate", "compare", "table")

STARTS: Mapping[str, Sequence[str]] = {
    TORCH: (TORCH,),
    "import probe": ("import probe",),
    "import fseg": ("import fseg",),
    "fseg --version": (FSEG, "--version"),
    "fseg --help": (FSEG, "--help"),
    **{f"fseg {name} --help": (FSEG, name, "--help") for name in COMMANDS},
    "fseg segment --mistyped": (FSEG, "segment", "--mistyped"),
    "fseg datasets": (FSEG, "datasets"),
    "fseg recipes": (FSEG, "recipes"),
    "probe --help": (PROBE, "--help"),
}
"""What is started: the code of a fresh interpreter, and its arguments."""


def measure(repeats: int = 5) -> list[dict[str, object]]:
    """Median wall time of fresh processes, all in turn in every repeat, and its ratio to that of `import torch`."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for turn in range(1 + repeats):  # the first fills the file system's cache, and compiles the modules, as an installation does
        for name, (code, *arguments) in STARTS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False, env=environment)
            if turn:
                times[name].append(time.perf_counter() - started)
    torch = median(times[TORCH])
    return [{"start": name, "seconds": median(taken), "/ import torch": median(taken) / torch} for name, taken in times.items()]


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Fresh processes for each row.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to startup.json in this folder.")] = None,
) -> None:
    """Measure start-up times, and print each as a ratio to `import torch`."""
    from tests.benchmarks.timing import record, table  # imports torch: after the measurement

    rows = measure(repeats)
    if out is None:
        typer.echo(table(rows))
    else:
        record("startup", rows, out)


if __name__ == "__main__":
    typer.run(main)
