"""Parts that are not the parts of one set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fseg.evaluation.run.job import Job, Shard
from fseg.evaluation.run.merging import merge
from fseg.evaluation.run.runner import evaluate
from tests.faults.campaign import Campaign, Outcome
from tests.unit.fseg.evaluation.runs import NAMES, RECIPE, exchange, job_of, planted, refusal, scenes
from tests.unit.fseg.sams import tiny_sam

PARTS = 2
RECORDS = "records/worker-0.jsonl"

Spoil = Callable[[list[Path], int, np.random.Generator], list[Path]]
"""Of copies of the parts and the number of one of them: the folders to merge."""


def evaluated(job: Job, folder: Path) -> list[Path]:
    """The parts of a set."""
    parts = [folder / str(number) for number in range(PARTS)]
    for number, part in enumerate(parts, start=1):
        evaluate(replace(job, shard=Shard(number, PARTS)), part)
    return parts


def of_another(others: list[Path], parts: list[Path], number: int, _: np.random.Generator) -> list[Path]:
    """The part of another run in its place."""
    return [*parts[:number], others[number], *parts[number + 1 :]]


def records_of_another(others: list[Path], parts: list[Path], number: int, _: np.random.Generator) -> list[Path]:
    shutil.copy(others[number] / RECORDS, parts[number] / RECORDS)
    return parts


def twice(parts: list[Path], number: int, _: np.random.Generator) -> list[Path]:
    return [*parts, parts[number]]


def one_missing(parts: list[Path], number: int, _: np.random.Generator) -> list[Path]:
    return [*parts[:number], *parts[number + 1 :]]


def overlapping(parts: list[Path], number: int, _: np.random.Generator) -> list[Path]:
    shutil.copy(parts[number - 1] / RECORDS, parts[number] / RECORDS)
    return parts


def one_image_of_the_next_part(parts: list[Path], number: int, rng: np.random.Generator) -> list[Path]:
    lines = [(part / RECORDS).read_bytes().splitlines(keepends=True) for part in (parts[number - 1], parts[number])]
    lines[1][rng.integers(len(lines[1]))] = lines[0][rng.integers(len(lines[0]))]
    (parts[number] / RECORDS).write_bytes(b"".join(lines[1]))
    return parts


def without_an_image(parts: list[Path], number: int, rng: np.random.Generator) -> list[Path]:
    lines = (parts[number] / RECORDS).read_bytes().splitlines(keepends=True)
    del lines[rng.integers(len(lines))]
    (parts[number] / RECORDS).write_bytes(b"".join(lines))
    return parts


def spoils(folder: Path, job: Job) -> dict[str, Spoil]:
    """What can be wrong with parts, and how to make it so."""
    others = {
        "a set with an image more": replace(job, root=scenes(folder / "more", [*NAMES[:4], "another"])),
        "a set with an image less": replace(job, root=scenes(folder / "less", NAMES[1:4])),
        "a set with other names": replace(job, root=scenes(folder / "named", [f"other-{name}" for name in NAMES[:4]])),
        "two images exchanged between the parts": replace(
            job, root=exchange(Path(shutil.copytree(job.root, folder / "exchanged")), *NAMES[:2])
        ),
        "another limit": replace(job, limit=3),
        "another recipe": replace(job, rows={RECIPE.name: RECIPE.with_({"respond.layers": (0, 1)})}),
        "other weights": replace(job, sam=tiny_sam(seed=1)),
    }
    made = {name: evaluated(other, folder / f"parts of {name}") for name, other in others.items()}
    return {
        **{name: partial(of_another, parts) for name, parts in made.items()},
        "records of other images": partial(records_of_another, made["a set with other names"]),
        "a part twice": twice,
        "a part missing": one_missing,
        "a part's images in another part": overlapping,
        "an image in two parts": one_image_of_the_next_part,
        "a part without an image": without_an_image,
    }


def merges(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """Parts of which one is not as it should be: refused, and nothing written. As they were, they are merged."""
    job = job_of(scenes(folder / "set", NAMES[:4]), *planted())
    whole = evaluate(job, folder / "whole")
    parts = evaluated(job, folder / "parts")
    wrong = spoils(folder, job)
    for number in range(n):
        name = list(wrong)[number % len(wrong)]
        copies = [Path(shutil.copytree(part, folder / "copies" / part.name)) for part in parts]
        given = wrong[name](copies, int(rng.integers(PARTS)), rng)
        missed = refusal(lambda given=given: merge([given[place] for place in rng.permutation(len(given))], job.root, folder / "merged"))
        written = "; something was written" if (folder / "merged").exists() else ""
        shutil.rmtree(folder / "copies")
        shutil.rmtree(folder / "merged", ignore_errors=True)
        yield Outcome(f"{name}: refused", f"{name}: {missed}{written}" if missed or written else "")
    same = merge(parts, job.root, folder / "merged") == whole
    yield Outcome("whole parts merged", "" if same else "the parts as they were gave other results")


CAMPAIGNS = [Campaign("merge", "parts that are not those of one set", full=260, short=6, trials=merges)]
