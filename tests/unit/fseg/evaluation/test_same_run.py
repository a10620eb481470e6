"""A run goes on only with the data, the weights and the records that it began with."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fseg.errors import RunMismatch
from fseg.evaluation.run import weights
from fseg.evaluation.run.job import Job
from fseg.evaluation.run.runner import evaluate
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.evaluation.runs import job_of, saved, swap
from tests.unit.fseg.sams import tiny_sam


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_files_exchanged_under_a_run_are_noticed(job: Job, tmp_path: Path, kind: str) -> None:
    mine = replace(job, root=Path(shutil.copytree(job.root, tmp_path / "set")))
    evaluate(mine, tmp_path / "out")
    swap(mine.root / f"{kind}/scene-1.png", mine.root / f"{kind}/scene-4.png")
    with pytest.raises(RunMismatch, match=rf"The files of 2 of 6 finished images hold other bytes .* the first '.*{kind}/scene-1\.png'"):
        evaluate(mine, tmp_path / "out")
    swap(mine.root / f"{kind}/scene-1.png", mine.root / f"{kind}/scene-4.png")
    assert evaluate(mine, tmp_path / "out")["images"] == 6


def test_the_fingerprint_of_the_data_is_of_its_bytes(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=Path(shutil.copytree(job.root, tmp_path / "set")), save_masks=False)
    first = evaluate(mine, tmp_path / "first")["data_fingerprint"]
    assert evaluate(replace(job, save_masks=False), tmp_path / "elsewhere")["data_fingerprint"] == first
    swap(mine.root / "labels/scene-1.png", mine.root / "labels/scene-4.png")
    assert evaluate(mine, tmp_path / "second")["data_fingerprint"] != first


def test_an_image_that_was_added_makes_another_set(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=trees.folder(tmp_path / "set", "cat\n", {"a": [[0, 0]], "b": [[0, 0]]}))
    evaluate(mine, tmp_path / "out")
    trees.folder(mine.root, "cat\n", {"c": [[0, 0]]})
    with pytest.raises(RunMismatch, match="another run: \n  set_images: 2 stored, 3 requested\nStart"):
        evaluate(mine, tmp_path / "out")


def test_weights_that_are_exchanged_in_a_loaded_model_are_noticed(job: Job, tmp_path: Path) -> None:
    evaluate(replace(job, limit=2), tmp_path)
    with pytest.raises(RunMismatch, match=r"The weights of the sam are not those with which the run in .* began"):
        evaluate(replace(job, limit=2, sam=tiny_sam(seed=1)), tmp_path)


def test_records_without_their_manifest_are_not_gone_on_with(job: Job, tmp_path: Path, seen: list[Any]) -> None:
    evaluate(job, tmp_path)
    (tmp_path / "manifest.json").unlink()
    seen.clear()
    with pytest.raises(RunMismatch, match=r"no manifest\.json, which says what they are of"):
        evaluate(job, tmp_path)
    assert seen == []


def test_a_folder_with_other_peoples_files_stays_as_it_was(job: Job, tmp_path: Path) -> None:
    (tmp_path / "out/records").mkdir(parents=True)
    (tmp_path / "note").write_text("mine")
    (tmp_path / "out/lock").symlink_to(tmp_path / "note")
    (tmp_path / "out/records/mine.jsonl").write_text("no line end")
    with pytest.raises(RunMismatch):
        evaluate(job, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["lock", "mine.jsonl", "records"]
    assert (tmp_path / "note").read_text() == "mine"
    assert (tmp_path / "out/records/mine.jsonl").read_text() == "no line end"


def test_a_record_of_another_set_is_not_counted(job: Job, tmp_path: Path) -> None:
    evaluate(replace(job, limit=3), tmp_path / "three")
    evaluate(job, tmp_path / "six")
    shutil.copy(tmp_path / "six/records/worker-0.jsonl", tmp_path / "three/records/worker-0.jsonl")
    with pytest.raises(RunMismatch, match=r"Line 4 of .* the run has no image 'scene-3'"):
        evaluate(replace(job, limit=3), tmp_path / "three")


def test_weights_that_are_exchanged_at_the_same_path_are_noticed(root: Path, tmp_path: Path) -> None:
    backbone, sam = saved(tmp_path)
    mine = job_of(root, backbone, sam, limit=1)
    evaluate(mine, tmp_path / "out")
    before, size = sam.stat(), sam.stat().st_size
    saved(tmp_path, seed=1)
    assert sam.stat().st_size == size
    os.utime(sam, ns=(before.st_atime_ns, before.st_mtime_ns))  # a copy that keeps the time
    with pytest.raises(RunMismatch, match=r"The weights of the sam are not those with which the run in .* began \(.*sam\.safetensors: "):
        evaluate(mine, tmp_path / "out")
    saved(tmp_path)
    evaluate(mine, tmp_path / "out")
    config = backbone / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "comment": "changed"}))
    with pytest.raises(RunMismatch, match="The weights of the backbone are not those"):
        evaluate(mine, tmp_path / "out")


def test_weights_are_read_once_for_a_run_that_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, sam = saved(tmp_path)
    evaluate(job_of(root, backbone, sam, limit=1), tmp_path / "out")

    def read_again(*_: Any) -> Any:
        raise AssertionError("a file was hashed again")

    with monkeypatch.context() as watched:
        watched.setattr(weights.hashlib, "file_digest", read_again)
        evaluate(job_of(root, backbone, sam, limit=1), tmp_path / "out")
    (tmp_path / "out/.fseg-weights.json").write_text("{")
    evaluate(job_of(root, backbone, sam, limit=1), tmp_path / "out")


def test_the_same_weights_elsewhere_have_the_same_fingerprint(root: Path, tmp_path: Path) -> None:
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        evaluate(job_of(root, *saved(tmp_path / name), limit=1), tmp_path / f"{name}/out")
        found.append(json.loads((tmp_path / f"{name}/out/manifest.json").read_text())["models"]["weights"])
    assert found[0] == found[1]
    assert all(len(found[0][kind]) == 64 for kind in ("backbone", "sam"))
