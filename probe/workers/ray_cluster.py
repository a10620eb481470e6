"""The connection to a Ray cluster: an existing one, or one on this machine that is started and ended with the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants

from probe.errors import ClusterNotFound, DeviceNotFound
from probe.workers import ray_watcher

LOCAL = "local"
"""The address of a cluster on this machine, started for the run and ended with it."""

PATIENCE = 10.0
"""Seconds to wait for a cluster's head. Ray itself would retry for ever."""

LOOPBACK = "127.0.0.1"
"""The address of a cluster on this machine, out of reach of others: Ray executes whatever it is sent."""


@contextmanager
def connected(address: str, processors: int) -> Iterator[None]:
    """Connect to a cluster for the block. A program that is connected already stays connected.

    Args:
        address: as `run_on_cluster` takes it.
        processors: of a `LOCAL` cluster: Ray's own count of what may run at once, whatever the machine has.

    Raises:
        ClusterNotFound: no cluster answers at the address, or none can be started that only this machine reaches.
    """
    if ray.is_initialized():
        yield
        return
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics of a cluster that exists for one run
        with _watched(), _loopback(), _initialised(address, num_cpus=processors, include_dashboard=False):
            if (bound := ray.util.get_node_ip_address()) != LOOPBACK:
                raise ClusterNotFound(
                    f"Ray {ray.__version__} has a cluster of this machine listen on {bound}, where others reach it: none is started. "
                    "Work without --engine ray, or start a cluster and give its --address."
                )
            yield
        return
    _check_answers(address)
    with _initialised(address):
        yield


def needs_of_workers(device: str | None, workers: int, threads: int) -> dict[str, int]:
    """What each actor takes up of the cluster, as Ray's options.

    Raises:
        DeviceNotFound: the cluster has less than that for all workers, or the device is not Ray's to choose.
    """
    if device not in (None, "cpu", "cuda"):
        raise DeviceNotFound(f"Device {device!r} was asked for; on a cluster it is cpu or cuda, and Ray gives each worker its own.")
    kind, each = ("GPU", 1) if device == "cuda" else ("CPU", threads)
    there = ray.cluster_resources().get(kind, 0)
    if there < workers * each:
        raise DeviceNotFound(
            f"{workers} workers with {each} {kind} each were asked for; the cluster has {there:g}. Take fewer --workers"
            f"{' or --threads' if kind == 'CPU' else ''}, or add machines first."
        )
    return {"num_cpus": 0, "num_gpus": 1} if kind == "GPU" else {"num_cpus": threads}


@contextmanager
def _initialised(address: str, **options: Any) -> Iterator[None]:
    try:
        try:
            with _uninterrupted():
                ray.init(address, **options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _not_found(address, str(error).strip().partition("\n")[0]) from error
        yield
    finally:
        ray.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block.

    Ray cannot end a half-started cluster, and Python loses a Ctrl-C during a fork.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one receives signals
        yield
        return
    heard = False

    def hear(*_: object) -> None:
        nonlocal heard
        heard = True

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _loopback() -> Iterator[None]:
    """Bind what Ray starts to `LOOPBACK`, as it is without this on macOS.

    Ray has no option for it: on Linux it takes 127.0.0.1, where it is given, for the address of the machine's network card.
    """
    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # Ray's own; that it still works is seen from the address
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _watched() -> Iterator[None]:
    """Run the block with a watcher process, which ends the rest of a local cluster if this process is killed."""
    # A session of its own: a signal to all processes of a terminal or of a job does not end it first.
    watcher = subprocess.Popen(
        [sys.executable, "-P", ray_watcher.__file__, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise _not_found(address, str(error)) from error


def _not_found(address: str, reason: str) -> ClusterNotFound:
    return ClusterNotFound(
        f"No Ray cluster answers at {address!r}: {reason}. Give HOST:PORT of its head as `ray start --head` prints it, "
        "auto on a machine that belongs to it, or no --address to work on this machine. If the cluster asks for a token, set "
        "RAY_AUTH_MODE=token where the run is started."
    )
