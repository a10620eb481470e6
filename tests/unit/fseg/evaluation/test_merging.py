"""Parts of one set make the whole; anything else is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fseg.errors import RunMismatch
from fseg.evaluation.run.job import Job, Shard
from fseg.evaluation.run.merging import merge
from fseg.evaluation.run.runner import evaluate
from tests.unit.fseg.evaluation.runs import exchange, scenes


def parts(job: Job, folder: Path) -> list[Path]:
    """The set in two parts."""
    found = [folder / "1", folder / "2"]
    for number, part in enumerate(found, start=1):
        assert evaluate(replace(job, shard=Shard(number, 2)), part)["images"] == 3
    return found


def test_parts_put_together_are_the_whole(job: Job, tmp_path: Path) -> None:
    whole = evaluate(job, tmp_path / "whole")
    two = parts(job, tmp_path)
    assert merge(two, job.root, tmp_path / "merged") == whole
    assert merge(two[::-1], job.root, tmp_path / "merged") == whole
    with pytest.raises(RunMismatch, match=r"The folders hold the parts 1/2, 1/2; the whole is 1/2, 2/2"):
        merge([two[0], two[0]], job.root, tmp_path / "merged")
    with pytest.raises(RunMismatch, match="holds no run"):
        merge([tmp_path / "none"], job.root, tmp_path / "merged")


def test_parts_of_different_runs_are_not_put_together(job: Job, tmp_path: Path) -> None:
    evaluate(replace(job, shard=Shard(1, 2)), tmp_path / "1")
    evaluate(replace(job, shard=Shard(2, 2), save_masks=False), tmp_path / "2")
    with pytest.raises(RunMismatch, match="save_masks: true stored, false requested"):
        merge([tmp_path / "1", tmp_path / "2"], job.root, tmp_path / "merged")


def test_a_set_that_changed_between_its_parts_is_not_put_together(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=Path(shutil.copytree(job.root, tmp_path / "set")))
    evaluate(replace(mine, shard=Shard(1, 2)), tmp_path / "1")
    scenes(mine.root, ["another"])
    evaluate(replace(mine, shard=Shard(2, 2)), tmp_path / "2")
    with pytest.raises(RunMismatch, match="set_images: 6 stored, 7 requested"):
        merge([tmp_path / "1", tmp_path / "2"], mine.root, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_images_exchanged_between_the_parts_are_noticed(job: Job, tmp_path: Path) -> None:
    """Scene 0 is of the first part and scene 1 of the second: one would be counted twice, and the other not at all."""
    mine = replace(job, root=Path(shutil.copytree(job.root, tmp_path / "set")))
    evaluate(replace(mine, shard=Shard(1, 2)), tmp_path / "1")
    exchange(mine.root, "scene-0", "scene-1")
    evaluate(replace(mine, shard=Shard(2, 2)), tmp_path / "2")
    with pytest.raises(RunMismatch, match=r"files of 1 of 6 finished images hold other bytes than when they were counted, .*scene-0"):
        merge([tmp_path / "1", tmp_path / "2"], mine.root, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_other_images_of_the_same_number_are_another_set(job: Job, tmp_path: Path) -> None:
    mine = replace(job, root=Path(shutil.copytree(job.root, tmp_path / "set")))
    evaluate(replace(mine, shard=Shard(1, 2)), tmp_path / "1")
    for kind in ("images", "labels"):
        (mine.root / f"{kind}/scene-5.png").rename(mine.root / f"{kind}/a.png")  # the first in order: every image moves to the other part
    evaluate(replace(mine, shard=Shard(2, 2)), tmp_path / "2")
    with pytest.raises(RunMismatch, match="set_names: "):
        merge([tmp_path / "1", tmp_path / "2"], mine.root, tmp_path / "merged")


def test_parts_that_overlap_are_not_put_together(job: Job, tmp_path: Path) -> None:
    one, two = parts(job, tmp_path)
    (two / "records/worker-0.jsonl").write_bytes((one / "records/worker-0.jsonl").read_bytes())
    with pytest.raises(RunMismatch, match=r"'scene-0' is in '.*/1' and in '.*/2': the parts overlap"):
        merge([one, two], job.root, tmp_path / "merged")


def test_a_part_that_lacks_an_image_is_not_put_together(job: Job, tmp_path: Path) -> None:
    one, two = parts(job, tmp_path)
    records = two / "records/worker-0.jsonl"
    content = records.read_bytes()
    records.write_bytes(content[: content[:-1].rfind(b"\n") + 100])
    with pytest.raises(RunMismatch, match="has 2 of its 3 images"):
        merge([one, two], job.root, tmp_path / "merged")
    assert len(records.read_bytes()) == content[:-1].rfind(b"\n") + 100  # a part is only read


def test_an_image_that_is_not_in_the_set_is_not_put_in(job: Job, tmp_path: Path) -> None:
    one, two = parts(job, tmp_path)
    other = replace(job, root=scenes(tmp_path / "other", [f"other-{number}" for number in range(6)]))
    evaluate(replace(other, shard=Shard(2, 2)), tmp_path / "of-other")
    shutil.copy(tmp_path / "of-other/records/worker-0.jsonl", two / "records/worker-0.jsonl")
    with pytest.raises(RunMismatch, match="The 6 images of the parts are not the 6 of the set"):
        merge([one, two], job.root, tmp_path / "merged")


def test_a_part_or_a_foreign_folder_is_not_written_over(job: Job, tmp_path: Path) -> None:
    one, two = parts(job, tmp_path)
    before = (one / "results.json").read_bytes()
    (tmp_path / "link").symlink_to(one)
    for out in (one, tmp_path / "link"):
        with pytest.raises(RunMismatch, match="is one of the parts, whose results would be lost"):
            merge([one, two], job.root, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/results.json").write_text("mine")
    with pytest.raises(RunMismatch, match=r"is no folder of a run: it holds 'results\.json'"):
        merge([one, two], job.root, tmp_path / "mine")
    evaluate(replace(job, limit=2), tmp_path / "other")
    with pytest.raises(RunMismatch, match="holds another run"):
        merge([one, two], job.root, tmp_path / "other")
    assert (one / "results.json").read_bytes() == before
    assert (tmp_path / "mine/results.json").read_text() == "mine"


def test_classes_of_another_root_are_refused(job: Job, tmp_path: Path) -> None:
    two = parts(job, tmp_path)
    other = scenes(tmp_path / "other")
    (other / "classes.txt").write_text("background\npottedplant\n")
    with pytest.raises(RunMismatch, match=r"The parts have 3 labels, folder under .* has 2"):
        merge(two, other, tmp_path / "merged")


def test_a_merged_folder_is_not_gone_on_with(job: Job, tmp_path: Path) -> None:
    merge(parts(job, tmp_path), job.root, tmp_path / "merged")
    with pytest.raises(RunMismatch, match="merged: 2 stored, nothing requested"):
        evaluate(job, tmp_path / "merged")
    assert json.loads((tmp_path / "merged/manifest.json").read_text())["shard"] == "1/1"


def test_parts_with_other_weights_are_not_put_together(job: Job, tmp_path: Path) -> None:
    one, two = parts(job, tmp_path)
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["models"]["weights"]["sam"] = "0" * 64
    (two / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunMismatch, match=r"models\.weights\.sam: "):
        merge([one, two], job.root, tmp_path / "merged")
