"""The pages of a run: which images are the worst, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fseg.errors import InvalidOption, InvalidRecipe
from fseg.evaluation.pages import write_pages
from fseg.evaluation.pages.choosing import worst_images
from fseg.evaluation.run.job import Job
from fseg.evaluation.run.records import Record, Row
from fseg.evaluation.run.runner import evaluate
from fseg.labels.metric import Counts
from tests.unit.fseg.evaluation import runs

NAMES = ("background", "plant", "cat")


def record(image: str, predicted: list[int], truth: list[int]) -> Record:
    def classes(labels: list[int]) -> tuple[int, ...]:
        return tuple(sorted({label for label in labels if label}))

    counts = Counts.of(np.array([predicted]), np.array([truth]), 3)
    return Record(image, classes(truth), {"row": Row({"background": counts}, classes(predicted), ())})


def test_the_lowest_miou_comes_first_and_failures_are_left_out() -> None:
    records = [
        record("right", [0, 1], [0, 1]),  # 1
        record("half", [0, 1, 1, 0], [0, 1, 0, 0]),  # (2/3 + 1/2) / 2
        record("wrong", [0, 2], [0, 1]),  # (1 + 0 + 0) / 3
        Record("broken", error="ImageError: it is no image"),
    ]
    found = worst_images(records, "row", "background", NAMES, 2)
    assert [(one.image, round(one.miou, 4)) for one in found] == [("wrong", 0.3333), ("half", 0.5833)]
    assert (found[0].missed, found[0].invented, found[0].classes) == (("plant",), ("cat",), ("plant", "cat"))
    assert (found[1].missed, found[1].invented) == ((), ())


def test_a_run_gets_the_pages_of_its_worst_images(tmp_path: Path) -> None:
    root = runs.scenes(tmp_path / "set")
    backbone, sam = runs.planted()
    job = Job("folder", root, {"first": runs.RECIPE.with_({"name": "first"})}, backbone=backbone, sam=sam)
    results = evaluate(job, tmp_path / "out")
    before = (tmp_path / "out/results.json").read_bytes()
    index = write_pages(job, tmp_path / "out", results, 2)
    pages = sorted((tmp_path / "out/pages").iterdir())
    assert len(pages) == 2
    shown = index.read_text(encoding="utf-8")
    assert all(f'<a href="pages/{page.name}">' in shown for page in pages)  # without JavaScript, too
    assert all(f'<td style="text-align: left">{name}</td>' in shown for name in results["classes"])
    assert write_pages(job, tmp_path / "out", evaluate(job, tmp_path / "out"), 1) == index  # the run goes on in its folder
    assert (tmp_path / "out/results.json").read_bytes() == before
    with pytest.raises(InvalidOption, match="pages"):
        write_pages(job, tmp_path / "out", results, 0)
    with pytest.raises(InvalidRecipe, match="Pages show one recipe, and this run has 2"):
        write_pages(replace(job, rows={**job.rows, "other": runs.RECIPE}), tmp_path / "out", results, 1)
