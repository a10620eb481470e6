"""A watcher process that outlives a run: if the run is killed, it ends the processes left of its Ray cluster.

Ray has the kernel end most of a cluster with the program that started it. Its agents notice it as well, but ask the cluster, which is gone,
for a minute before they end. (Where there is no /proc this does nothing: there Ray ends its process group by a process like this one.)

A file of its own, run by its path, so that it starts at once and imports nothing but the standard library.
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
"""Seconds between two checks of the run, and of the processes left of its cluster."""

LOOKS = 10
"""How often the processes left are ended: one that was just being started may appear after the first time."""


def users(files: re.Pattern[str]) -> list[int]:
    """Processes that have an open file whose path contains the pattern; those of other users cannot be looked into."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if any(map(files.search, _open_files(folder)))]


def _open_files(folder: Path) -> list[str]:
    paths = []
    with suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with suppress(OSError):
                paths.append(os.readlink(descriptor))
    return paths


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
