"""Comparisons of recipes: figures worked by hand, and a run with its page, table and picture."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fseg.errors import InvalidRecipe
from fseg.evaluation.comparison import PAGE, PICTURE, TABLE, compare_recipes
from fseg.evaluation.report.comparing import compare, comparison_csv, comparison_markdown
from fseg.evaluation.run.job import Job, task_of
from fseg.evaluation.run.records import Record, Row
from fseg.evaluation.run.runner import evaluate
from fseg.labels.metric import Counts
from tests.unit.fseg.evaluation import runs

FIRST = runs.RECIPE.with_({"name": "first"})
SECOND = FIRST.with_({"name": "se|cond", "compose.fill": "background"})
RECIPES = {"first": FIRST, "se|cond": SECOND}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.scenes(tmp_path_factory.mktemp("set"))


def record(image: str, first: list[int], second: list[int], truth: list[int]) -> Record:
    def row(labels: list[int]) -> Row:
        return Row({"background": Counts.of(np.array([labels]), np.array([truth]), 3)}, (), ())

    return Record(image, (), {"first": row(first), "se|cond": row(second)}, ("0" * 32, "0" * 32))


def records() -> list[Record]:
    return [
        record("b", [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]),  # IoU of 0 and 1: 1, 1 against 1/3, 1/3
        record("c", [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),  # the same
        record("a", [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]),  # 2/3, 1/2 against 1, 1
        Record("d", error="ImageError: it is no image"),
    ]


def test_figures_are_those_worked_by_hand(root: Path) -> None:
    task = task_of(Job("folder", root, RECIPES))
    found = compare(task.manifest(), task.declared, RECIPES, records(), furthest=1)
    assert (found.images, found.failed, [row.name for row in found.recipes]) == (3, 1, ["first", "se|cond"])
    first, second = found.recipes
    # Pixels that agree, over those that are predicted or true: background (3 + 4 + 2) of (3 + 4 + 3), class 1 (1 + 1) of (1 + 2).
    assert first.miou[0] == pytest.approx((9 / 10 + 2 / 3) / 2)
    assert second.miou[0] == pytest.approx((8 / 10 + 2 / 4) / 2)
    assert first.lead is None
    assert second.lead is not None
    assert second.lead[0] == pytest.approx(second.miou[0] - first.miou[0])
    assert second.lead[1] <= second.lead[0] <= second.lead[2]
    assert first.best + second.best == 1
    assert first.classes == {"background": pytest.approx(9 / 10), "pottedplant": pytest.approx(2 / 3), "cat": None}
    (widest,) = found.furthest
    assert (widest.image, widest.range) == ("b", pytest.approx(2 / 3))
    assert [one.image for one in compare(task.manifest(), task.declared, RECIPES, records()).furthest] == ["b", "a"]


def test_the_page_and_the_table_say_the_same(root: Path) -> None:
    task = task_of(Job("folder", root, RECIPES))
    found = compare(task.manifest(), task.declared, RECIPES, records())
    page, rows = comparison_markdown(found), list(csv.DictReader(comparison_csv(found).splitlines()))
    assert "3 images, 1 more failed." in page
    assert "| first | 78.3 [" in page
    assert "| se\\|cond | 65.0 [" in page
    assert "| pottedplant | 66.7 | 50.0 |\n| cat | - | - |" in page
    assert "| b | 100.0 | 33.3 |\n| a | 58.3 | 100.0 |" in page
    assert [row["recipe"] for row in rows] == ["first", "se|cond"]
    assert float(rows[0]["miou"]) == found.recipes[0].miou[0]
    assert (rows[0]["lead"], rows[0]["iou cat"]) == ("", "")
    same = replace(found, furthest=())
    assert comparison_markdown(same).endswith("No image tells the recipes apart.\n")


def test_without_an_image_there_is_nothing_to_compare(root: Path) -> None:
    task = task_of(Job("folder", root, RECIPES))
    with pytest.raises(InvalidRecipe, match="All 1 images failed, so there is nothing to compare"):
        compare(task.manifest(), task.declared, RECIPES, records()[3:])


def test_a_run_compares_what_its_recipes_give_alone(root: Path, tmp_path: Path) -> None:
    backbone, sam = runs.planted()
    other = FIRST.with_({"name": "other", "prompt.kind": "point"})
    job = Job("folder", root, {"first": FIRST, "other": other}, backbone=backbone, sam=sam)
    found = compare_recipes(job, tmp_path / "out", images=2, batch=3)
    for row in found.recipes:
        alone = replace(job, rows={row.name: job.rows[row.name]})
        assert row.miou[0] == evaluate(alone, tmp_path / row.name)["miou"]
    written = {name: (tmp_path / "out" / name).read_bytes() for name in (PAGE, TABLE)}
    assert found.furthest
    with Image.open(tmp_path / "out" / PICTURE) as picture:
        assert picture.width > picture.height > 100
    assert compare_recipes(job, tmp_path / "out", images=2) == found
    assert {name: (tmp_path / "out" / name).read_bytes() for name in (PAGE, TABLE)} == written
    (tmp_path / "out" / PICTURE).unlink()
    compare_recipes(job, tmp_path / "out", images=0)
    assert not (tmp_path / "out" / PICTURE).exists()


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        (["glyphs"], "A comparison needs two recipes or more"),
        (["glyphs", "glyphs-fast", "glyphs"], "Two of the recipes are called 'glyphs'"),
        (["glyphs", "nothing"], "nothing"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(
    recipes: list[str], message: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fseg.cli

    monkeypatch.setattr(
        "sys.argv", ["fseg", "compare", *recipes, "--dataset", "folder", "--root", str(root), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as ended:
        fseg.cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
