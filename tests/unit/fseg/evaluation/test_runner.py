"""Runs in this process: what is kept, what is not done again, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics import JaccardIndex

import probe
from fseg.errors import InvalidDataSet, InvalidOption, InvalidRecipe, InvalidSam, OutputError, RunMismatch
from fseg.evaluation.report.ablations import ablation_rows
from fseg.evaluation.report.text import table
from fseg.evaluation.run import job as job_module
from fseg.evaluation.run.job import Job, Shard
from fseg.evaluation.run.runner import evaluate
from fseg.sam.base import SamMask
from probe.errors import DeviceNotFound
from probe.workers.processes import devices
from tests import zoo
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.evaluation.runs import NAMES, RECIPE, scenes


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_result_is_that_of_torchmetrics_on_the_saved_masks(job: Job, tmp_path: Path) -> None:
    results = evaluate(job, tmp_path)
    oracle = JaccardIndex(task="multiclass", num_classes=3, ignore_index=255)
    for name in NAMES:
        mask, truth = (np.asarray(Image.open(path)) for path in (tmp_path / f"masks/{name}.png", job.root / f"labels/{name}.png"))
        oracle.update(torch.from_numpy(mask.astype(np.int64))[None], torch.from_numpy(truth.astype(np.int64))[None])
    assert results["miou"] == pytest.approx(float(oracle.compute()), abs=1e-6)
    assert 0 < results["miou"] < 1
    assert read(tmp_path / "results.json") == results
    assert (results["images"], results["failed"], results["class_list"]) == (6, 0, "benchmark")
    assert list(results["classes"]) == ["background", "pottedplant", "cat"]
    # All of both classes are assumed to be there; the truth has the plant alone.
    assert (results["presence"]["precision"], results["presence"]["recall"]) == (0.5, 1.0)
    assert "pottedplant" in (tmp_path / "table.txt").read_text()


def test_what_is_finished_is_not_done_again(job: Job, tmp_path: Path, seen: list[Any]) -> None:
    whole = evaluate(job, tmp_path / "whole")
    assert len(seen) == 6
    evaluate(job, tmp_path / "torn")
    records = tmp_path / "torn/records/worker-0.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:4]) + lines[4][:50])
    (tmp_path / "torn/results.json").unlink()
    seen.clear()
    assert evaluate(job, tmp_path / "torn") == whole
    assert len(seen) == 2
    assert (tmp_path / "torn/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    assert evaluate(job, tmp_path / "torn") == whole
    assert len(seen) == 2


def test_images_together_count_what_each_counts_alone(job: Job, models: tuple[probe.Probe, Any], tmp_path: Path) -> None:
    """Seven images of which one cannot be read, and a run that goes on with another batch."""
    mine = replace(job, root=scenes(tmp_path / "set", [*NAMES, "scene-2b"]))
    (mine.root / "images/scene-2b.png").write_bytes(b"not a picture")
    evaluate(mine, tmp_path / "alone", batch=1)
    passes: list[int] = []
    tower = models[0].model.get_submodule(models[0].modules.vision)
    hook = tower.register_forward_hook(lambda _, __, output: passes.append(len(output.last_hidden_state)))
    evaluate(mine, tmp_path / "together", batch=4)
    assert [count for count in passes if count > 1] == [3, 3]
    records = tmp_path / "together/records/worker-0.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:2]))
    passes.clear()
    evaluate(mine, tmp_path / "together", batch=3)
    assert [count for count in passes if count > 1] == [2, 2]
    hook.remove()
    for file in ("results.json", "table.txt", *(f"masks/{name}.png" for name in NAMES)):
        assert (tmp_path / "together" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert list(read(tmp_path / "together/results.json")["failures"]) == ["scene-2b"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [(0, "batch=0: takes a whole number of at least 1"), (True, "batch=True: takes a whole number")],
)
def test_a_batch_that_cannot_be_is_refused_before_anything_is_written(job: Job, tmp_path: Path, batch: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        evaluate(job, tmp_path / "out", batch=batch)
    assert not (tmp_path / "out").exists()


def test_another_recipe_in_the_same_folder_is_refused(job: Job, tmp_path: Path) -> None:
    evaluate(job, tmp_path)
    other = replace(job, rows={RECIPE.name: RECIPE.with_({"respond.layers": (0, 1)})})
    with pytest.raises(RunMismatch, match=r"respond\.layers: \[1, 3\] stored, \[0, 1\] requested"):
        evaluate(other, tmp_path)
    with pytest.raises(RunMismatch, match="asked_models"):
        evaluate(replace(job, backbone="another"), tmp_path)


def test_an_image_that_fails_is_recorded_and_does_not_stop_the_run(job: Job, tmp_path: Path, seen: list[Any]) -> None:
    root = trees.folder(tmp_path / "set", "cat\ndog\n", {"a": [[0, 1]], "b": [[0, 1]], "c": [[0, 1]], "d": [[0, 7]]})
    photo = root / "images/a.jpg"
    trees.picture(photo, (60, 60))
    photo.write_bytes(photo.read_bytes()[:-100])
    (root / "images/a.png").unlink()
    trees.picture(root / "images/b.png", (3, 3))
    results = evaluate(replace(job, root=root), tmp_path / "out")
    assert (results["images"], results["failed"]) == (1, 3)
    assert list(results["failures"]) == ["a", "b", "d"]
    assert "cannot be decoded" in results["failures"]["a"]
    assert "1 x 2 pixels" in results["failures"]["b"]
    assert "has the values 7" in results["failures"]["d"]
    seen.clear()
    assert evaluate(replace(job, root=root), tmp_path / "out") == results
    assert seen == []


BAD_PAIRS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a JPEG that is cut short": (
        lambda image, _: image.write_bytes(image.read_bytes()[:-100]),
        r"ImageError: .*a\.jpg.* cannot be decoded",
    ),
    "an image without a byte": (lambda image, _: image.write_bytes(b""), r"ImageError: .*a\.jpg"),
    "a palette PNG opened as RGB": (
        lambda _, truth: Image.open(truth).convert("RGB").save(truth),
        r"InvalidTruth: .*mode RGB.* take the file as it was distributed",
    ),
    "truth of 16 bits": (lambda _, truth: Image.new("I;16", (60, 60)).save(truth), "InvalidTruth: .*mode I;16"),
    "truth of another size than its image": (
        lambda _, truth: Image.new("L", (59, 60)).save(truth),
        r"InvalidTruth: .*60 x 59 pixels \(height x width\), their image 60 x 60",
    ),
    "an index beyond the class list": (
        lambda _, truth: Image.new("L", (60, 60), 2).save(truth),
        r"InvalidTruth: .*the values 2.*0\.\.1, 255 do",
    ),
    "truth that is cut short": (lambda _, truth: truth.write_bytes(truth.read_bytes()[:60]), r"InvalidTruth: .*a\.png' cannot be read"),
}


@pytest.mark.parametrize("bad", BAD_PAIRS)
def test_a_bad_pair_of_files_is_a_failure_that_says_what_is_wrong(job: Job, tmp_path: Path, bad: str) -> None:
    root = trees.folder(tmp_path / "set", "background\ncat\n", {"b": [[0, 1]]})
    truth = trees.labels(root / "labels/a.png", [[0, 1] * 30] * 60, colours=True)
    spoil, message = BAD_PAIRS[bad]
    spoil(trees.picture(root / "images/a.jpg", (60, 60)), truth)
    results = evaluate(replace(job, root=root), tmp_path / "out")
    assert (results["images"], list(results["failures"])) == (1, ["a"])
    assert re.match(message, results["failures"]["a"])


def test_failures_are_tried_again_when_asked_for(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(job_module, "measure", lambda *_: 1 / 0)
        assert evaluate(job, tmp_path)["failures"]["scene-0"] == "ZeroDivisionError: division by zero"
    assert evaluate(job, tmp_path)["failed"] == 6
    results = evaluate(job, tmp_path, retry_failed=True)
    assert (results["images"], results["failed"]) == (6, 0)


def test_an_image_that_was_mended_is_done_again_when_asked_for(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=trees.folder(tmp_path / "set", "cat\n", {"a": [[0, 0]], "b": [[0, 0]]}))
    whole = (mine.root / "images/b.png").read_bytes()
    (mine.root / "images/b.png").write_bytes(b"not a picture")
    assert evaluate(mine, tmp_path / "out")["failed"] == 1
    (mine.root / "images/b.png").write_bytes(whole)
    assert evaluate(mine, tmp_path / "out")["failed"] == 1
    assert evaluate(mine, tmp_path / "out", retry_failed=True)["failed"] == 0


def test_the_reasons_of_failed_images_are_shown_at_the_end_of_every_run(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=trees.folder(tmp_path / "set", "cat\n", {name: [[0, 0]] for name in "abcdefgh"}))
    for name in "abcdefg":
        (mine.root / f"images/{name}.png").write_bytes(b"not a picture")
    for _ in range(2):
        lines = table(evaluate(mine, tmp_path / "out")).splitlines()
        assert lines[1] == "7 images failed:"
        assert re.match(r"  a: ImageError: '.*/images/a\.png' is not an image in a format that Pillow reads\.", lines[2])
        assert lines[7] == "  and 2 more: see failures in results.json"


def test_a_score_that_is_not_finite_is_a_failure(job: Job, tmp_path: Path) -> None:
    class Unsure:
        """A SAM whose scores are NaN."""

        def embed(self, image: Image.Image) -> Image.Image:
            return image

        def masks(self, image: Image.Image, prompts: Any) -> list[SamMask]:
            return [SamMask(torch.zeros(image.height, image.width), float("nan")) for _ in prompts]

    results = evaluate(replace(job, sam=Unsure(), limit=1), tmp_path)
    assert results["failed"] == 1
    assert "NotFinite: SAM computed NaN or infinity for 'pottedplant'" in results["failures"]["scene-0"]


def test_a_run_in_which_everything_fails_has_no_figure(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "measure", lambda *_: 1 / 0)
    results = evaluate(job, tmp_path)
    assert results["miou"] is None
    assert results["presence"]["recall"] is None


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("CMYK", (2, 1)),
        Image.new("I;16", (2, 1)),
        Image.new("RGBA", (2, 1)),
        Image.new("L", (2, 1)),
    ],
    ids=["cmyk", "16-bit", "alpha", "grey"],
)
def test_pictures_of_every_kind_are_measured(job: Job, tmp_path: Path, picture: Image.Image) -> None:
    root = trees.folder(tmp_path / "set", "cat\n", {"a": [[0, 0]]})
    (root / "images/a.png").unlink()
    picture.save(root / "images/a.tif")
    assert evaluate(replace(job, root=root), tmp_path / "out")["images"] == 1


def test_a_photo_turned_by_exif_has_the_size_of_its_upright_labels(job: Job, tmp_path: Path) -> None:
    root = trees.folder(tmp_path / "set", "cat\n", {"a": [[0, 0, 0]]})
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (1, 3)).save(root / "images/a.png", exif=exif)
    assert evaluate(replace(job, root=root), tmp_path / "out")["failed"] == 0


def test_one_pixel_is_enough(job: Job, tmp_path: Path) -> None:
    root = trees.folder(tmp_path / "set", "background\ncat\n", {"a": [[1]]})
    assert evaluate(replace(job, root=root), tmp_path / "out")["images"] == 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_parts_count_from_one(text: str) -> None:
    with pytest.raises(InvalidDataSet, match="write 2/8 for the second of eight"):
        Shard.parse(text)
    assert Shard.parse("2/8") == Shard(2, 8)


def test_limit_comes_before_the_parts(job: Job, tmp_path: Path) -> None:
    results = evaluate(replace(job, limit=3, shard=Shard(2, 2)), tmp_path)
    assert results["images"] == 1
    assert [path.stem for path in (tmp_path / "masks").iterdir()] == ["scene-1"]


def test_layers_beyond_the_model_are_refused_before_any_image(job: Job, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="Layer 7 was asked for"):
        evaluate(replace(job, rows={"deep": RECIPE.with_({"respond.layers": (7, 9)})}), tmp_path)
    assert not list(tmp_path.glob("records/*"))


def test_a_folder_that_cannot_be_written_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        evaluate(job, tmp_path / "file/out")


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[Any]
) -> None:
    def full(path: Path, *_: Any) -> None:
        if path.stem == "scene-2":
            raise OutputError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(job_module, "write_mask", full)
        with pytest.raises(OutputError, match="No space left"):
            evaluate(job, tmp_path)
    seen.clear()
    assert evaluate(job, tmp_path)["images"] == 6
    assert len(seen) == 4


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert devices("cuda", 1) == ["cuda"]
    assert devices(None, 2) == [None, None]
    with pytest.raises(DeviceNotFound, match="3 workers were asked for, one on each GPU; this machine has 2"):
        devices("cuda", 3)


def test_rows_of_a_job_share_the_models_work_and_count_as_they_would_alone(
    job: Job, models: tuple[probe.Probe, Any], tmp_path: Path
) -> None:
    rows = {name: RECIPE.with_({"respond.fusion": name}) for name in ("D", "M_A", "D*M_A")}
    looks: list[int] = []
    hook = models[0].model.model.vision_tower.register_forward_pre_hook(lambda *_: looks.append(1))
    results = evaluate(replace(job, rows=rows, save_masks=False), tmp_path / "rows")
    together = len(looks)
    looks.clear()
    alone = evaluate(replace(job, rows={"M_A": rows["M_A"]}), tmp_path / "alone")
    hook.remove()
    assert together == len(looks)  # three rows cost the model what one does
    assert list(results["rows"]) == ["D", "M_A", "D*M_A"]
    assert results["rows"]["M_A"]["miou"] == alone["miou"]
    assert "miou" not in results
    assert results["images"] == 6


@pytest.mark.parametrize("number", [3, 5])
def test_all_rows_of_an_ablation_come_from_one_session_and_one_pass_an_image(
    number: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, traced = [], []
    real_open, real_trace = probe.Probe.open, probe.Session.trace
    monkeypatch.setattr(probe.Probe, "open", lambda *given, **options: opened.append(1) or real_open(*given, **options))
    monkeypatch.setattr(probe.Session, "trace", lambda *given, **options: traced.append(1) or real_trace(*given, **options))
    rows = ablation_rows(number, RECIPE, str(zoo.save(zoo.llava(), tmp_path / "llava")))
    results = evaluate(replace(job, rows=rows, save_masks=False), tmp_path / "out")
    assert (results["images"], len(results["rows"])) == (6, 3)
    assert (len(opened), len(traced)) == (6, 6)


def test_threads_are_those_that_were_asked_for_and_only_for_the_run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    used: list[int] = []
    real = job_module.measure
    monkeypatch.setattr(job_module, "measure", lambda *given: used.append(torch.get_num_threads()) or real(*given))
    evaluate(replace(job, limit=1), tmp_path, threads=before + 1)
    assert used == [before + 1]
    assert torch.get_num_threads() == before


def test_several_workers_take_models_by_name(job: Job, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="Give the backbone and the SAM by name or path"):
        evaluate(job, tmp_path, workers=2)


def test_a_job_with_rows_saves_no_masks(job: Job, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="The label maps of 2 rows would overwrite each other"):
        evaluate(replace(job, rows={"a": RECIPE, "b": RECIPE}), tmp_path)


@pytest.mark.parametrize("text", ["1/" + "9" * 5000, "\uff11/\uff12", "1/" + "9" * 19])
def test_a_part_is_written_in_digits_of_a_sensible_number(text: str) -> None:
    with pytest.raises(InvalidDataSet, match="write 2/8 for the second of eight"):
        Shard.parse(text)


@pytest.mark.parametrize("numbers", [(0, 3), (4, 3), (-1, 3), (1.0, 3), (True, 1), ("1", "2"), (1, 10**5000)])
def test_a_part_that_does_not_exist_is_refused_when_it_is_named(numbers: tuple[Any, Any]) -> None:
    with pytest.raises(InvalidDataSet, match="parts count from 1"):
        Shard(*numbers)


@pytest.mark.parametrize("limit", [-1, 0, 1.5])
def test_a_limit_is_a_number_of_images(job: Job, limit: Any) -> None:
    with pytest.raises(InvalidOption, match=r"limit=.*: takes a whole number of at least 1\."):
        replace(job, limit=limit)


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"workers": -1}, {"threads": 0}, {"threads": -2}])
def test_workers_and_threads_are_at_least_one(job: Job, tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match="takes a whole number of at least 1"):
        evaluate(job, tmp_path / "out", **numbers)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_number_of_threads_is_restored_if_the_models_cannot_be_opened(job: Job, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with pytest.raises(InvalidSam):
        evaluate(replace(job, sam=tmp_path / "missing.pth"), tmp_path / "out", threads=before + 1)
    assert torch.get_num_threads() == before
