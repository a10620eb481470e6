"""A process that outlives a run and ends what a killed one leaves of the Ray cluster that it had started.

Ray has the kernel end most of a cluster with the program that started it. Its agents notice it as well, but ask the cluster, which is gone,
for a minute before they end. (Where there is no /proc this does nothing: there Ray ends its process group by a process like this one.)

A file of its own, run by its path, because whatever is imported from `fseg` imports torch first.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.2
"""Seconds between two looks at whether the run is there, and at what is left of its cluster."""

LOOKS = 10
"""How often what is left is ended: a process that was being started when the run ended may come to light after the first time."""


def users(files: re.Pattern[str]) -> list[int]:
    """Processes that have an open file whose path contains the pattern; those of other users cannot be looked into."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if any(map(files.search, _open_files(folder)))]


def _open_files(folder: Path) -> list[str]:
    found = []
    with suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(descriptor))
    return found


def main(run: int) -> None:
    """Wait for the end of the process that started this one, and end those that write into the logs of a Ray session of its."""
    while os.getppid() == run:
        time.sleep(INTERVAL)
    session = re.compile(rf"/session_[0-9_-]+_{run}/")  # as Ray names the folder of a cluster
    for _ in range(LOOKS):
        for process in users(session):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
