"""Collecting: the same files from any number of workers, and after any kill; and its commands."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

import fseg.glyphs
import probe
from probe.cli import app
from probe.store.collecting.items import items_of_file
from probe.store.format.shards import items_path, tensors_path

READS = (probe.Hidden([2, 4], at="image"), probe.Attention(3, query=-1, key="image"))
COUNT = 18
KILLS = int(os.environ.get("FSEG_KILLS", "1"))
"""How often a collection is killed; FSEG_KILLS=20 for the long form."""
OPEN = partial(probe.load, fseg.glyphs.llava_folder(), resize="stretch", tiles=False)


def items(count: int) -> list[probe.Item]:
    scenes = [fseg.glyphs.scene(seed) for seed in range(min(count, 24))]
    return [
        probe.Item(
            f"scene-{number}",
            scenes[number % 24].image,
            f"Is there a {scenes[number % 24].classes[0]}?",
            labels={"class": scenes[number % 24].classes[0], "number": number},
        )
        for number in range(count)
    ]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".probe-lock")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one process wrote without a break."""
    folder = tmp_path_factory.mktemp("whole")
    probe.collect(OPEN, items(COUNT), READS, to=folder, dtype="float16", shard_items=4, threads=1)
    return folder


def test_what_is_kept_is_what_run_reads(whole: Path) -> None:
    store, model, item = probe.open_store(whole), OPEN(), items(COUNT)[15]
    trace = model.run(model.encode(item.image, item.prompt), READS)
    kept, read = store[READS[0]]["scene-15"], trace[READS[0]]
    assert kept == read.to("float16")
    assert kept.grid().dims == ("layer", "batch", "row", "col", "feature")
    assert kept.layout == read.layout
    assert store[READS[1]]["scene-15"] == trace[READS[1]].to("float16")
    assert store.tokens("scene-15").spans == model.encode(item.image, item.prompt).tokens.spans
    assert store.check() == []


@pytest.mark.slow
def test_four_workers_write_the_same_files(whole: Path, tmp_path: Path) -> None:
    probe.collect(OPEN, items(COUNT), READS, to=tmp_path, dtype="float16", shard_items=4, workers=4, threads=1)
    assert content(tmp_path) == content(whole)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra")
def test_two_actors_of_a_cluster_write_the_same_files(whole: Path, tmp_path: Path) -> None:
    probe.collect(OPEN, items(COUNT), READS, to=tmp_path, dtype="float16", shard_items=4, workers=2, threads=1, cluster="local")
    assert content(tmp_path) == content(whole)


def test_parts_in_one_folder_are_the_whole(whole: Path, tmp_path: Path) -> None:
    for part in ((2, 2), (1, 2)):
        store = probe.collect(OPEN, items(COUNT), READS, to=tmp_path, dtype="float16", shard_items=4, part=part, threads=1)
        assert store.missing == ((0, 2, 4) if part == (2, 2) else ())
    assert content(tmp_path) == content(whole)


COLLECTOR = """
import sys
from pathlib import Path
import probe
from tests.system.test_store import OPEN, READS, items
if __name__ == "__main__":
    probe.collect(OPEN, items({count}), READS, to=sys.argv[1], dtype="float16", shard_items={shard}, threads=1, workers=int(sys.argv[2]))
"""


def killed_until_done(folder: Path, kills: int, count: int, shard: int, workers: int) -> int:
    """Collect in processes, so many of which are killed at a random moment of their work; returns how many were."""
    chance, done = random.Random(0), 0
    code = folder.parent / "collector.py"
    code.write_text(COLLECTOR.format(count=count, shard=shard))
    command = [sys.executable, str(code), str(folder), str(workers)]
    for _ in range(kills):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)
        before = written(folder)
        while written(folder) == before and process.poll() is None:  # not while it imports
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
    subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True, stderr=subprocess.DEVNULL)
    return done


def written(folder: Path) -> int:
    """The bytes of a store so far. Files may go while they are counted."""
    size = 0
    for path in (*folder.rglob("*.bin"), *folder.glob("shard-*")):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_collection_goes_on_to_the_same_files(tmp_path: Path, workers: int) -> None:
    count = 25 * max(KILLS, 2)
    shard = count // 5
    probe.collect(OPEN, items(count), READS, to=tmp_path / "whole", dtype="float16", shard_items=shard, threads=1)
    assert killed_until_done(tmp_path / "killed", kills=KILLS, count=count, shard=shard, workers=workers) >= KILLS / 2
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_pooled_states_tell_scenes_with_a_cat_from_others(tmp_path: Path) -> None:
    model = OPEN()
    scenes = [fseg.glyphs.scene(seed) for seed in range(40)]
    cats = [probe.Item(f"{i}", scene.image, "Is there a cat?", labels={"cat": "cat" in scene.classes}) for i, scene in enumerate(scenes)]
    store = probe.collect(model, cats, probe.Hidden(4, at="image"), to=tmp_path / "cats", pool="mean", dtype="float16")
    features, labels = store.matrix(probe.Hidden(4, at="image")), store.labels["cat"]
    assert features.shape == (40, 128)
    assert labels.tolist() == ["cat" in scene.classes for scene in scenes]
    standard = (features - features.mean(0)) / features.std(0)
    signs = np.where(labels, 1.0, -1.0)
    loss = lambda w: np.logaddexp(0, -signs * (standard @ w[1:] + w[0])).mean() + 1e-3 * (w @ w)  # noqa: E731
    fitted = minimize(loss, np.zeros(129)).x
    assert (((standard @ fitted[1:] + fitted[0]) > 0) == labels).all()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one of them damaged, and a file of reads."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        fseg.glyphs.scene(seed).image.save(folder / f"scene-{seed}.png")
    (folder / "broken.png").write_bytes(b"no image")
    (tmp_path / "reads.toml").write_text('[[read]]\nkind = "Hidden"\nlayers = [4]\nat = "image"\n')
    return folder


def extracted(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    model = str(fseg.glyphs.llava_folder())
    options = ["--stretch", "--reads", str(tmp_path / "reads.toml"), "--to", str(tmp_path / "store")]
    result = CliRunner().invoke(app, ["extract", model, *options, *arguments])
    return result.exit_code, result.output + str(result.exception or "")


def test_a_folder_of_images_is_extracted_shown_and_checked(photos: Path, tmp_path: Path) -> None:
    code, output = extracted(tmp_path, "--images", str(photos), "--prompt", "Is there a cat?", "--pool", "mean", "--dtype", "bfloat16")
    assert code == 1  # one item failed
    assert "failed  broken: ImageError: " in output
    store = probe.open_store(tmp_path / "store")
    assert (store.ids, list(store.failed)) == (("scene-0", "scene-1"), ["broken"])
    assert store.matrix(probe.Hidden(4, at="image")).dtype == np.float32
    shown = CliRunner().invoke(app, ["store", str(tmp_path / "store"), "--check"])
    assert shown.exit_code == 0
    for line in (
        "items         2 of 3, 1 failed",
        "values        bfloat16",
        "read 0        Hidden(layers=(4,), at=('image',), normed=True), mean",
    ):
        assert line in shown.output
    assert "checked  every byte is as it was written" in shown.output


def test_a_flipped_bit_is_found(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").unlink()
    assert extracted(tmp_path, "--images", str(photos), "--prompt", "Is there a cat?")[0] == 0
    for path in (tensors_path(tmp_path / "store", 0), items_path(tmp_path / "store", 0)):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
        shown = CliRunner().invoke(app, ["store", str(tmp_path / "store"), "--check"])
        assert shown.exit_code == 1
        assert f"damaged  '{path}' does not have the" in shown.output


def test_items_of_a_file_have_their_own_prompts_answers_and_labels(photos: Path, tmp_path: Path) -> None:
    lines = [
        {"id": "a", "image": "photos/scene-0.png", "labels": {"class": "cat"}},
        {"id": "b", "image": "photos/scene-1.png", "prompt": "What is this?", "answer": "A cat.", "labels": {"class": "dog"}},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert extracted(tmp_path, "--items", str(tmp_path / "items.jsonl"), "--prompt", "Is there a cat?")[0] == 0
    store = probe.open_store(tmp_path / "store")
    assert store.labels["class"].tolist() == ["cat", "dog"]
    assert "answer" in store.tokens("b").spans
    assert "answer" not in store.tokens("a").spans


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "a"', "Line 1 .* is no JSON"),
        ('{"id": "a", "picture": "x.png", "prompt": "?"}', "an object with id, image, prompt, answer, labels was expected"),
        ('{"id": "a", "image": "x.png"}', "Line 1 .* has no prompt"),
        ('{"id": 7, "image": "x.png", "prompt": "?"}', "an id is a text"),
    ],
)
def test_a_line_that_is_no_item_is_named(photos: Path, tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "items.jsonl").write_text(line)
    with pytest.raises(probe.errors.InvalidItems, match=reason):
        items_of_file(tmp_path / "items.jsonl", None)
