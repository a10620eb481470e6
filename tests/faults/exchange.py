"""Data and weights exchanged under a run, for others of the same size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fseg.evaluation.run.runner import evaluate
from tests.faults.campaign import Campaign, Outcome
from tests.unit.fseg.evaluation.runs import NAMES, job_of, refusal, saved, scenes

Exchange = Callable[[Path, int, np.random.Generator], list[tuple[Path, bytes | None]]]
"""Of the place and how many images are finished: files, each with what it is to hold; None: it is to be gone."""


def two_of(kind: str) -> Exchange:
    """A finished image's file exchanged for another's, made as long as it was."""

    def exchange(place: Path, finished: int, rng: np.random.Generator) -> list[tuple[Path, bytes | None]]:
        mine = place / f"set/{kind}/{NAMES[rng.integers(finished)]}.png"
        other = place / f"other/{kind}/scene-0.png"
        length = len(mine.read_bytes())
        return [(mine, other.read_bytes().ljust(length, b"\0")[:length])]

    return exchange


def one_bit(file: str) -> Exchange:
    """One bit of the weights themselves, behind the header."""

    def exchange(place: Path, _: int, rng: np.random.Generator) -> list[tuple[Path, bytes | None]]:
        content = bytearray((place / file).read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        content[rng.integers(header, len(content))] ^= 1
        return [(place / file, bytes(content))]

    return exchange


def no_manifest(place: Path, _: int, __: np.random.Generator) -> list[tuple[Path, bytes | None]]:
    return [(place / "out/manifest.json", None)]


EXCHANGES: dict[str, Exchange] = {
    "an image": two_of("images"),
    "a truth": two_of("labels"),
    "a bit of the backbone": one_bit("llava/model.safetensors"),
    "a bit of the SAM": one_bit("sam.safetensors"),
    "the manifest deleted": no_manifest,
}


@contextmanager
def exchanged(files: list[tuple[Path, bytes | None]]) -> Iterator[None]:
    """The files with other contents and the times that they had; put back at the end."""
    before = [(path, path.read_bytes(), path.stat()) for path, _ in files]
    for (path, content), (_, _, stat) in zip(files, before, strict=True):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        yield
    finally:
        for path, content, _ in before:
            path.write_bytes(content)


def exchanges(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """A run that ended at some image, something exchanged, and started again: refused; put back, it ends with the same results."""
    job = job_of(scenes(folder / "set"), *saved(folder))
    scenes(folder / "other", seed=1)
    whole = evaluate(job, folder / "whole")
    lines = (folder / "whole/records/worker-0.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(n):
        name = list(EXCHANGES)[number % len(EXCHANGES)]
        finished = int(rng.integers(1, len(NAMES) + 1))
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "out")
        (folder / "out/records/worker-0.jsonl").write_bytes(b"".join(lines[:finished]))
        with exchanged(EXCHANGES[name](folder, finished, rng)):
            missed = refusal(lambda: evaluate(job, folder / "out"))
        if not missed and evaluate(job, folder / "out") != whole:
            missed = "put back, it ended with other results"
        yield Outcome(f"{name}: noticed", f"{name}, {finished} images finished: {missed}" if missed else "")


CAMPAIGNS = [Campaign("exchange", "contents of the same size, under a run", full=100, short=2, trials=exchanges)]
