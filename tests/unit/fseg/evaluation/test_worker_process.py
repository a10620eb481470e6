"""A worker's first code ties it to the run. The kill of a run on Linux is in tests/system; here is what other systems have."""

from __future__ import annotations

import os
import subprocess
import sys

from probe.workers import worker_process


def child(parent: str, life: int) -> subprocess.Popen[str]:
    """A process that would live for a minute, tied to another; it has no PR_SET_PDEATHSIG."""
    code = f"""if True:
        import os, runpy, sys, time
        sys.platform = "other"
        runpy.run_path({worker_process.__file__!r})["end_with"]({parent}, {life})
        print("tied", flush=True)
        time.sleep(60)
    """
    return subprocess.Popen([sys.executable, "-c", code], pass_fds=[life], stdout=subprocess.PIPE, text=True)


def test_a_pipe_that_the_run_no_longer_holds_ends_a_worker() -> None:
    life, ours = os.pipe()
    process = child("os.getppid()", life)
    os.close(life)
    assert process.stdout is not None
    assert process.stdout.readline() == "tied\n"
    os.close(ours)
    process.communicate(timeout=30)
    assert process.returncode == 1


def test_a_worker_whose_run_has_ended_already_does_not_begin() -> None:
    life, ours = os.pipe()
    process = child(str(os.getppid()), life)
    printed, _ = process.communicate(timeout=30)
    assert (process.returncode, printed) == (1, "")
    os.close(life)
    os.close(ours)
