"""How long the tests take: the README's command, and the daily subset."""

from __future__ import annotations

import subprocess
import sys
import time

SUITES = {"pytest": (), "pytest tests/unit": ("tests/unit",)}


def measure() -> list[dict[str, object]]:
    """Wall time of each suite, with the tests' imports, and how many tests passed.

    Raises:
        CalledProcessError: a test fails.
    """
    rows: list[dict[str, object]] = []
    for name, arguments in SUITES.items():
        started = time.perf_counter()
        # One -q is in the options already; -v takes it back, so that the last line counts the tests.
        ended = subprocess.run([sys.executable, "-m", "pytest", "-v", *arguments], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
        rows.append({"tests": name, "seconds": seconds, "result": ended.stdout.splitlines()[-1].partition(" in ")[0].strip("= ")})
    return rows
