"""Side by side: ways of doing one thing, timed in turns, and what is said about the machine that they ran on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import nnsight
import torch
import transformers


def seconds(ways: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """The median wall time of each way; see `turns`."""
    return {name: median(values) for name, values in turns(ways, repeats, warm_up).items()}


def turns(ways: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """The wall times of each way, all ways in turn in every repeat, so that what disturbs the machine disturbs them alike.

    Every other repeat has them in the other order: what a way leaves in the caches helps each of its neighbours as often.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + repeats):
        for name in reversed(ways) if turn % 2 else ways:
            _finish()
            start = time.perf_counter()
            ways[name]()
            _finish()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def quotient(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the quotients of two ways' times in the same repeat: a machine that slows down in between does not count."""
    return median(one / other for one, other in zip(above, below, strict=True))


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, str]:
    """What a figure depends on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, torch on {torch.get_num_threads()} threads",
        "gpu": gpu,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, nnsight {nnsight.__version__}",
    }


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    cells = [names, *([_shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}" if isinstance(value, float) else str(value)


def record(name: str, rows: Sequence[Mapping[str, object]], out: Path) -> None:
    """Print the rows, and write them with the machine's description to `out`/name.json."""
    print(f"\n{name}\n\n{table(rows)}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
