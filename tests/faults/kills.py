"""SIGKILL at every system call of a process that writes records and results, and half way through its writes."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from fseg.evaluation.run.record_files import FOLDER, RecordFile, cut_torn_lines, read_records
from fseg.evaluation.run.records import ClassRecord, Expected, Record, Row, to_json
from fseg.labels.metric import Counts
from probe.disk.files import clear_temporary, write_atomically
from probe.errors import ProbeError
from tests.faults.campaign import Campaign, Outcome

LABELS = 3
EXPECTED = Expected({"row": ("background",)}, LABELS, background=True)
ANSWER = ClassRecord(label=1, asked_as="cat", answer="yes, " * 500, margin=0.5, score=0.5, flags=())
RECORDS = [
    Record(f"{number:02}", (1,), {"row": Row({"background": Counts(*np.full((3, LABELS), number))}, (1,), (ANSWER,))}, ("0" * 32, "f" * 32))
    for number in range(4)
]
PTRACE_TRACEME, PTRACE_PEEKUSER, PTRACE_POKEUSER, PTRACE_SYSCALL, PTRACE_SETOPTIONS = 0, 3, 6, 24, 0x4200
PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL = 1, 1 << 20
SYSTEM_CALL_STOP = signal.SIGTRAP | 0x80
COUNT, NUMBER, RESULT = 8 * 12, 8 * 15, 8 * 10
"""Where x86-64 keeps the third argument of a system call, its number, and -ENOSYS until it has been carried out."""
ENOSYS = 38
WRITE = 1


def results(done: int) -> bytes:
    """What stands in results.json after so many images: more than one write."""
    return json.dumps({"images": done, "figures": list(range(done, done + 4_000))}).encode()


def go_on(folder: Path) -> None:
    """The writer, from nothing or from what a killed one left, as an evaluation does it: each record, and then the results so far."""
    clear_temporary(folder)
    cut_torn_lines(folder)
    done = read_records(folder, EXPECTED)
    file = RecordFile(folder / FOLDER / "worker-0.jsonl")
    for number, record in enumerate(RECORDS, start=1):
        if record.image not in done:
            file.append(record)
        write_atomically(folder / "results.json", lambda file, number=number: file.write(results(number)))  # type: ignore[misc]
    file.close()


def trace(action: Callable[[], None], stop: int = -1, torn: bool = False) -> int:
    """Run an action in a forked process, which is killed at one of its stops: each system call has one before and one after it.

    Args:
        stop: the number of the stop. Where it is not reached, the process ends by itself.
        torn: kill it not there but in the next write, of which half is done.

    Returns:
        the number of stops that it came to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes, libc.ptrace.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long
    child = os.fork()
    if child == 0:
        try:
            gc.disable()  # the parent's garbage is not of this process
            if libc.ptrace(PTRACE_TRACEME, 0, None, None):
                raise OSError(ctypes.get_errno(), "ptrace is not allowed here")
            signal.raise_signal(signal.SIGSTOP)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.waitpid(child, 0)
    libc.ptrace(PTRACE_SETOPTIONS, child, None, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
    for number in count():
        libc.ptrace(PTRACE_SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            if os.waitstatus_to_exitcode(status) != 0:
                raise ChildProcessError("the writer cannot go on; its traceback is on standard error")
            return number
        assert os.WSTOPSIG(status) == SYSTEM_CALL_STOP
        if torn and number >= stop >= 0 and _before_a_write(libc, child):
            half = libc.ptrace(PTRACE_PEEKUSER, child, COUNT, None) // 2
            libc.ptrace(PTRACE_POKEUSER, child, COUNT, half)
            libc.ptrace(PTRACE_SYSCALL, child, None, None)
            os.waitpid(child, 0)
            torn, stop = False, number
        if number == stop and not torn:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return number + 1
    raise AssertionError("unreachable")


def _before_a_write(libc: ctypes.CDLL, child: int) -> bool:
    number, result = (libc.ptrace(PTRACE_PEEKUSER, child, place, None) for place in (NUMBER, RESULT))
    return bool(number == WRITE and result == -ENOSYS)


def found_wrong(folder: Path) -> str:
    """What a kill must not leave: results that are not whole, or anything but whole records in order and half of a last one."""
    written = folder / "results.json"
    if written.exists() and written.read_bytes() not in [results(number + 1) for number in range(len(RECORDS))]:
        return "results.json is not whole"
    whole = b"".join(to_json(record) + b"\n" for record in RECORDS)
    for path in (folder / FOLDER).glob("*"):
        if not whole.startswith(path.read_bytes()):
            return f"{path.name} holds something else than the records"
    return ""


def one_trial(folder: Path, stop: int, torn: bool, again: int) -> Outcome:
    """Kill the writer; kill the one that goes on as well; let a third finish."""
    trace(lambda: go_on(folder), stop, torn)
    wrong = found_wrong(folder)
    files = [path.read_bytes() for path in (folder / FOLDER).glob("*")]
    verdict = "torn line" if any(content and not content.endswith(b"\n") for content in files) else "whole lines"
    verdict += " and a temporary file" if any(path.name.startswith(".") for path in folder.iterdir()) else ""
    try:
        trace(lambda: go_on(folder), again)
        wrong = wrong or found_wrong(folder)
        go_on(folder)
        wrong = wrong or found_wrong(folder) or found_unfinished(folder)
    except (ProbeError, ChildProcessError) as error:
        wrong = wrong or str(error)
    return Outcome(verdict, f"{wrong} (stop {stop}{' torn' if torn else ''}, then stop {again})" if wrong else "")


def found_unfinished(folder: Path) -> str:
    """What a writer that ended by itself must have done, and has not."""
    if [to_json(record) for record in read_records(folder, EXPECTED).values()] != [to_json(record) for record in RECORDS]:
        return "going on does not end with the same records"
    left = sorted(path.name for path in folder.iterdir())
    return "" if left == [FOLDER, "results.json"] else f"{', '.join(left)} are left behind"


def trials(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """The stops in equal steps, each one where there are trials enough; every fourth half way through a write."""
    (folder / "whole").mkdir()
    stops = trace(lambda: go_on(folder / "whole"))
    for number in range(n):
        place = folder / str(number)
        place.mkdir()
        torn = number % 4 == 3
        stop = number * stops // n if torn else (number - number // 4) * max(1, stops // n) % stops
        yield one_trial(place, stop, torn, int(rng.integers(stops)))


CAMPAIGNS = [
    Campaign(
        "kills",
        "SIGKILL at the system calls of a writer, and of the one that goes on",
        full=500,
        short=5 if sys.platform == "linux" and os.uname().machine == "x86_64" else 0,
        trials=trials,
    )
]
