"""Worker processes on this machine, which end when the process that started them ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import spawn
from multiprocessing.connection import Connection

import torch

from probe.errors import DeviceNotFound, WorkerDied
from probe.workers import worker_process


def devices(device: str | None, workers: int) -> list[str | None]:
    """The device of each worker: with "cuda", one GPU each; otherwise the one that was named.

    Raises:
        DeviceNotFound: fewer GPUs than workers.
    """
    if device != "cuda" or workers == 1:
        return [device] * workers
    if torch.cuda.device_count() < workers:
        raise DeviceNotFound(f"{workers} workers were asked for, one on each GPU; this machine has {torch.cuda.device_count()}.")
    return [f"cuda:{number}" for number in range(workers)]


def threads_of_each(threads: int | None, workers: int) -> int:
    """The threads of each worker on the CPU; None: this process's, divided among them."""
    return threads or max(1, torch.get_num_threads() // workers)


@contextmanager
def started(count: int, lock: int) -> Iterator[list[WorkerProcess]]:
    """Worker processes for a block, which are killed at its end.

    On Linux they also end with the thread that started them.

    Args:
        lock: the descriptor of a folder's lock. The workers hold it as well: the folder is free once the last of them has ended.
    """
    workers: list[WorkerProcess] = []
    life, ours = os.pipe()
    try:
        for number in range(count):
            workers.append(WorkerProcess.start(number, life, lock))
        yield workers
    finally:
        for worker in workers:
            worker.end()
        os.close(life)
        os.close(ours)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process, seen from the run."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection

    @classmethod
    def start(cls, number: int, life: int, lock: int) -> WorkerProcess:
        """Start a process that ends with this one, and that prepares its main module as `multiprocessing` does."""
        ours, theirs = multiprocessing.Pipe()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        numbers = [str(number) for number in (theirs.fileno(), os.getpid(), life)]
        # -P: modules in the file's folder must not shadow others of the same names.
        command = [sys.executable, *flags, "-P", worker_process.__file__, *numbers]
        # Block Ctrl-C until the process ignores it: during Python's start-up it would print a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), life, lock))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker = cls(number, process, ours)
        preparation = spawn.get_preparation_data(f"Worker-{number}")
        worker.send({key: value for key, value in preparation.items() if key != "authkey"})
        return worker

    def send(self, value: object) -> None:
        """Send a value to the process.

        Raises:
            WorkerDied: the process ended.
        """
        try:
            self.pipe.send(value)
        except OSError as error:
            raise self._died() from error

    def receive(self, kind: str) -> object:
        """The next message of the process, which has to be of this kind.

        Raises:
            WorkerDied: the process ended, or reports that it cannot continue.
        """
        try:
            sent, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if sent != kind:
            raise WorkerDied(f"Worker {self.number} cannot go on. {value}")
        return value

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    def _died(self) -> WorkerDied:
        return WorkerDied(
            f"Worker {self.number} ended with exit code {self.process.wait()} (-9 is a kill, often for want of memory). "
            "What is finished is kept: start again to go on, perhaps with fewer --workers."
        )
