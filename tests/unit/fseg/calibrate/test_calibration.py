"""A calibration in this process: one model pass an image, the figures of an evaluation, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fseg
import fseg.cli
import probe
from fseg.calibrate.calibration import calibrate
from fseg.calibrate.observation import load_observation
from fseg.calibrate.report import check_free, figures_of, write_calibration
from fseg.calibrate.rows import Thresholds
from fseg.errors import InvalidDataSet, InvalidOption, InvalidRecipe, MissingFiles, OutputError, RunMismatch
from fseg.evaluation.run.job import Job
from fseg.evaluation.run.runner import evaluate
from tests import zoo
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.evaluation.runs import RECIPE, job_of, planted, saved, scenes
from tests.unit.fseg.sams import tiny_sam

FEW = Thresholds((0.5, 0.75), (0.1, 0.2, 0.5))


@pytest.fixture(scope="module")
def models() -> tuple[probe.Probe, Any]:
    return planted()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("set"))


@pytest.fixture
def job(root: Path, models: tuple[probe.Probe, Any]) -> Job:
    return job_of(root, *models)


@pytest.fixture
def passes(models: tuple[probe.Probe, Any]) -> Iterator[list[int]]:
    """An entry for each pass of the model over an image."""
    seen: list[int] = []
    hook = models[0].model.model.vision_tower.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


def test_the_model_reads_each_image_once_and_the_figure_is_that_of_an_evaluation(job: Job, tmp_path: Path, passes: list[int]) -> None:
    calibration = calibrate(job, tmp_path / "mine", "mine", thresholds=FEW)
    assert len(passes) == 6
    assert (calibration.images, calibration.rows, calibration.failures) == (6, 15 * 6, {})  # 5 hidden states make 15 bands
    first = calibration.finalists[0]
    assert calibration.recipe == first.candidate.row.of(RECIPE, "mine")
    results = evaluate(replace(job, rows={"mine": calibration.recipe}), tmp_path / "eval")
    assert results["miou"] == first.miou
    assert first.miou == max(one.miou for one in calibration.finalists)


def test_images_together_end_with_the_same_recipe(job: Job, tmp_path: Path, passes: list[int]) -> None:
    alone = calibrate(job, tmp_path / "alone", "mine", thresholds=FEW)
    passes.clear()
    together = calibrate(job, tmp_path / "together", "mine", thresholds=FEW, batch=3)
    assert len(passes) <= 4  # two passes of three images, the first one compared with two of them
    assert (together.recipe, together.finalists, together.images) == (alone.recipe, alone.finalists, alone.images)


@pytest.mark.parametrize("changes", [{}, {"refine.mask": "M_v", "respond.fusion": "D", "refine.fallback": True, "compose.fill": "none"}])
def test_every_finalist_has_the_figure_of_an_evaluation(root: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """With a model of random weights, in which each band and threshold gives other masks."""
    hf, processor = zoo.llava()
    base = RECIPE.with_(changes)
    backbone = probe.load(model=hf, processor=processor, resize="stretch", tiles=False)
    job = replace(job_of(root, backbone, tiny_sam(), limit=2), rows={"base": base})
    calibration = calibrate(job, tmp_path / "mine", "mine", thresholds=FEW)
    rows = {str(one.candidate.row): one.candidate.row.of(base, str(one.candidate.row)) for one in calibration.finalists}
    assert len(rows) == 12
    results = evaluate(replace(job, rows=rows), tmp_path / "eval")
    assert {row: figures["miou"] for row, figures in results["rows"].items()} == {
        str(one.candidate.row): one.miou for one in calibration.finalists
    }


def test_a_calibration_that_was_cut_short_goes_on_to_the_same_figures(job: Job, tmp_path: Path, passes: list[int]) -> None:
    job = replace(job, limit=3)

    def run(folder: Path) -> dict[str, object]:
        return figures_of(calibrate(job, folder, "mine", thresholds=FEW))

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "cut") == whole
    for records in (tmp_path / "cut").glob("*/records/worker-0.jsonl"):
        lines = records.read_bytes().splitlines(keepends=True)
        records.write_bytes(lines[0] + lines[1][:50])
    passes.clear()
    assert run(tmp_path / "cut") == whole
    assert len(passes) == 2
    assert run(tmp_path / "cut") == whole  # a finished one says the same again
    assert len(passes) == 2


def test_other_thresholds_need_no_further_model_pass(job: Job, tmp_path: Path, passes: list[int]) -> None:
    job = replace(job, limit=2)
    calibrate(job, tmp_path, "mine", thresholds=FEW)
    passes.clear()
    calibration = calibrate(job, tmp_path, "mine", thresholds=Thresholds((0.6,), (0.3,)))
    assert passes == []
    assert {(one.candidate.row.alpha, one.candidate.row.beta) for one in calibration.finalists} == {(0.6, 0.3)}


def test_the_files_say_what_was_chosen_from_what_and_how_sure_it_is(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    calibration = calibrate(job, check_free(out), "mine", thresholds=FEW)
    write_calibration(out, calibration)
    assert fseg.get_recipe(out) == calibration.recipe
    comments = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert comments[0] == "# Calibrated by `fseg calibrate` on 6 images of folder; class list benchmark."
    assert str(calibration.finalists[0].candidate.row) in comments[1]
    figures = json.loads((tmp_path / "mine.json").read_text())
    assert figures["chosen"] == figures["finalists"][0]
    assert (figures["images"], len(figures["layers"]), len(figures["bands"])) == (6, 5, 15)
    assert figures["confidence"]["wins"] == calibration.confidence.wins
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_images_that_fail_are_left_out_and_may_be_mended(job: Job, tmp_path: Path) -> None:
    root = scenes(tmp_path / "set", ["a", "b", "c"])
    whole = (root / "images/a.png").read_bytes()
    (root / "images/a.png").write_bytes(b"not a picture")
    trees.labels(root / "labels/b.png", [[0, 1]])
    mine = replace(job, root=root)
    calibration = calibrate(mine, tmp_path / "mine", "mine", thresholds=FEW)
    assert calibration.images == 1
    assert list(calibration.failures) == ["a", "b"]
    assert "have 1 x 2 pixels (height x width), their image 24 x 32" in calibration.failures["b"]
    (root / "images/a.png").write_bytes(whole)
    assert calibrate(mine, tmp_path / "mine", "mine", thresholds=FEW, retry_failed=True).images == 2


def test_a_class_list_of_any_name_leaves_the_recipe_readable(job: Job, tmp_path: Path) -> None:
    listed = tmp_path / "my\nclasses.txt"
    listed.write_text("pottedplant\ncat\n")
    calibration = calibrate(replace(job, limit=1, class_list=str(listed)), tmp_path / "mine", "mine", thresholds=FEW)
    write_calibration(tmp_path / "mine.toml", calibration)
    assert fseg.get_recipe(tmp_path / "mine.toml") == calibration.recipe


def test_a_set_in_which_every_image_fails_says_why(job: Job, tmp_path: Path) -> None:
    root = scenes(tmp_path / "set", ["a", "b"])
    for name in "ab":
        (root / f"images/{name}.png").write_bytes(b"not a picture")
    with pytest.raises(InvalidDataSet, match=r"All 2 images failed, the first, 'a', with ImageError: "):
        calibrate(replace(job, root=root), tmp_path / "mine", "mine")


def test_a_set_without_truth_is_refused(job: Job, tmp_path: Path, passes: list[int]) -> None:
    root = scenes(tmp_path / "set")
    for path in (root / "labels").iterdir():
        path.unlink()
    with pytest.raises(MissingFiles, match=r"6 files of the set are not there.*No image has its labels"):
        calibrate(replace(job, root=root), tmp_path / "mine", "mine")
    assert passes == []


def test_a_set_whose_truth_holds_no_class_is_refused_before_any_model_pass(job: Job, tmp_path: Path, passes: list[int]) -> None:
    root = trees.folder(tmp_path / "set", "background\ncat\n", {"a": [[0, 0]], "b": [[0, 255]]})
    with pytest.raises(InvalidDataSet, match="No label file of the 2 images of folder holds a class"):
        calibrate(replace(job, root=root), tmp_path / "mine", "mine")
    assert passes == []
    assert not (tmp_path / "mine").exists()


def test_a_model_that_says_yes_to_nothing_has_no_map_to_calibrate(job: Job, tmp_path: Path) -> None:
    silent = replace(job, rows={"base": RECIPE.with_({"ask.presence": "ask"})})  # the planted model ends every answer at once
    with pytest.raises(InvalidDataSet, match="said yes to none of 2 classes in any of 6 images"):
        calibrate(silent, tmp_path, "mine")


def test_a_fusion_whose_rows_do_not_follow_from_its_layers_is_refused(job: Job, tmp_path: Path) -> None:
    attention = replace(job, rows={"base": RECIPE.with_({"respond.fusion": "M_A"})})
    with pytest.raises(InvalidRecipe, match=r"has the fusion 'M_A'.*'D\*M_A' and 'D'"):
        calibrate(attention, tmp_path, "mine")


def test_another_recipe_in_the_same_folder_is_refused(job: Job, tmp_path: Path) -> None:
    job = replace(job, limit=2)
    calibrate(job, tmp_path, "mine", thresholds=FEW)
    other = replace(job, rows={"base": RECIPE.with_({"ask.question": "photo"})})
    with pytest.raises(RunMismatch, match=r"ask\.question"):
        calibrate(other, tmp_path, "mine", thresholds=FEW)
    layers = replace(job, rows={"base": RECIPE.with_({"respond.layers": (0, 2), "respond.beta": 0.4})})
    calibrate(layers, tmp_path, "mine", thresholds=FEW)  # these are looked for: the recipe's own do not matter


def test_what_was_kept_of_an_image_has_to_be_whole(job: Job, tmp_path: Path) -> None:
    job = replace(job, limit=2)
    calibrate(job, tmp_path, "mine", thresholds=FEW)
    kept = tmp_path / "observed/observations/scene-1.safetensors"
    whole = kept.read_bytes()
    kept.unlink()
    with pytest.raises(RunMismatch, match=r"scene-1\.safetensors' cannot be read"):
        calibrate(job, tmp_path, "mine", thresholds=FEW)
    for broken in (whole[:-20], b"", whole.replace(b"image_size", b"image_sice")):
        kept.write_bytes(broken)
        with pytest.raises(RunMismatch, match=r"scene-1\.safetensors' cannot be read"):
            load_observation(kept)


def test_what_is_kept_of_an_image_is_its_answers_and_a_map_for_each_layer(job: Job, tmp_path: Path) -> None:
    calibrate(replace(job, limit=1), tmp_path, "mine", thresholds=FEW)
    observation = load_observation(tmp_path / "observed/observations/scene-0.safetensors")
    assert [(e.name, e.present, e.grid.shape, e.grid.image_size) for e in observation.evidence] == [
        ("pottedplant", True, (4, 4), (24, 32)),
        ("cat", True, (4, 4), (24, 32)),
    ]
    assert observation.distances.shape == (2, 5, 16)


def test_a_limit_of_0_is_refused(job: Job) -> None:
    with pytest.raises(InvalidOption, match="limit=0: takes a whole number of at least 1"):
        replace(job, limit=0)


def test_files_of_somebody_else_are_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    assert check_free(out) == tmp_path / "mine"
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputError, match=r"mine\.json' exists, and there is no calibration in"):
        check_free(out)
    with pytest.raises(OutputError, match=r"a file such as mine\.toml"):
        check_free(tmp_path / "mine")


def test_the_command_writes_a_recipe_that_segments(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fseg_command(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["fseg", *arguments])
        with pytest.raises(SystemExit) as ended:
            fseg.cli.main()
        return int(ended.value.code or 0)

    backbone, sam = saved(tmp_path)
    (tmp_path / "base.toml").write_text(RECIPE.to_toml())
    out = tmp_path / "mine.toml"
    models = ["--recipe", str(tmp_path / "base.toml"), "--backbone", str(backbone), "--sam", str(sam)]
    command = ["calibrate", "--dataset", "folder", "--root", str(root), "--limit", "2", "--alphas", "0.5,0.75", "--betas", "0.2", *models]
    assert fseg_command(*command, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "layers  alpha  beta    mIoU  before SAM"
    assert "on 2 images of folder" in printed
    assert fseg.get_recipe(out).backbone.checkpoint == str(backbone)
    picture = str(root / "images/scene-0.png")
    assert fseg_command("segment", picture, "--classes", "pottedplant", "--recipe", str(out), "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out/scene-0/labels.png").is_file()
    assert fseg_command(*command, "--out", str(out), "--betas", "much") == 2
    assert "--betas 'much': takes numbers separated by commas" in capsys.readouterr().err
    assert fseg_command("calibrate", "--dataset", "folder", "--root", str(root), "--out", str(tmp_path / "other.toml")) == 2
    assert "name the model by --backbone" in capsys.readouterr().err
