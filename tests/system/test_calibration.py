"""`fseg calibrate` from the shell: killed and started again, over several processes, and on the glyph world."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import fseg
from fseg.calibrate.report import files_of
from fseg.glyphs.evaluate import measure
from fseg.glyphs.make import write_voc
from tests.unit.fseg.evaluation.runs import RECIPE, saved, scenes

PROGRAM = [sys.executable, "-c", "from fseg.cli import main; main()", "calibrate", "--threads", "1"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A calibration of a planted model on six images, without its --out."""
    place = tmp_path_factory.mktemp("place")
    backbone, sam = saved(place)
    (place / "base.toml").write_text(RECIPE.to_toml())
    models = ["--recipe", str(place / "base.toml"), "--backbone", str(backbone), "--sam", str(sam)]
    return [*PROGRAM, "--dataset", "folder", "--root", str(scenes(place / "set")), *models]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files of a run that nobody disturbed."""
    return finish(command, tmp_path_factory.mktemp("whole") / "mine.toml")


def finish(command: list[str], out: Path, *more: str) -> list[bytes]:
    """Run to the end, and return what the files hold."""
    subprocess.run([*command, "--out", str(out), *more], check=True, capture_output=True)
    return [path.read_bytes() for path in files_of(out)]


def kill_after(count: int, command: list[str], out: Path, pattern: str, *more: str) -> int:
    """Kill a run once so many images of one of its passes are done; returns how many there are then."""

    def done() -> int:
        return sum(path.read_bytes().count(b"\n") for path in out.with_suffix("").glob(f"{pattern}/records/*.jsonl"))

    run = subprocess.Popen([*command, "--out", str(out), *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while done() < count and run.poll() is None:
        time.sleep(0.002)
    run.kill()
    run.wait()
    return done()


@pytest.mark.slow
def test_a_calibration_that_is_killed_in_each_pass_ends_with_the_same_files(command: list[str], whole: list[bytes], tmp_path: Path) -> None:
    """Killed with one worker, then with two; two finish it."""
    out = tmp_path / "mine.toml"
    assert kill_after(2, command, out, "observed") < 6
    assert kill_after(1, command, out, "finalists-*", "--workers", "2") >= 1
    assert not out.exists()
    assert finish(command, out, "--workers", "2") == whole


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'fseg-llava[ray]'")
def test_actors_of_a_cluster_end_with_the_same_files(command: list[str], whole: list[bytes], tmp_path: Path) -> None:
    assert finish(command, tmp_path / "mine.toml", "--engine", "ray", "--workers", "2") == whole


@pytest.mark.slow
def test_on_the_glyph_world_it_finds_a_recipe_as_good_as_the_hand_tuned_one(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", 15, "train")
    out = tmp_path / "mine.toml"
    finish([*PROGRAM, "--dataset", "glyphs", "--root", str(tmp_path / "data"), "--backbone", "glyphs", "--sam", "glyphs"], out)
    hand, found = fseg.get_recipe("glyphs"), fseg.get_recipe(out)
    miou = measure(fseg.Segmenter(hand), 40, compared={"hand": hand, "found": found})["miou"]
    assert miou["found"] > miou["hand"] - 0.005
