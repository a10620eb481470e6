"""`fseg eval` from the shell: killed and started again, over several processes, and how it says no."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import save_file

import fseg
from fseg.errors import ClusterNotFound, WorkerDied
from fseg.evaluation.run.job import Job, task_of
from fseg.evaluation.run.runner import evaluate
from probe.errors import DeviceNotFound
from tests import zoo
from tests.planted import plant
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.sams import tiny_sam

IMAGES = 12
KILLS = int(os.environ.get("FSEG_KILLS", "1"))
"""How often the run is killed; FSEG_KILLS=20 for the long form."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are loaded from files, their recipe, and twelve pictures of which one cannot be read."""
    folder = tmp_path_factory.mktemp("place")
    zoo.save(plant(zoo.llava(), "plant"), folder / "llava")
    save_file(
        {name: tensor.contiguous() for name, tensor in tiny_sam().state_dict().items() if "pixel" not in name}, folder / "sam.safetensors"
    )
    changes = {"name": "tiny", "respond.layers": (1, 3), "ask.max_new_tokens": 4, "ask.presence": "assume"}
    (folder / "tiny.toml").write_text(fseg.get_recipe("fseg-llava-1.5-vicuna-7b").with_(changes).to_toml())
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        values = np.zeros((24, 32), dtype=np.int64)
        row, col = 6 * rng.integers(0, 4), 8 * rng.integers(0, 4)
        values[row : row + 6, col : col + 8] = 1
        trees.folder(folder / "set", "background\npottedplant\ncat\n", {f"{number:02}": values.tolist()})
        Image.fromarray(np.where(values == 1, 255, 0).astype(np.uint8)).convert("RGB").save(folder / f"set/images/{number:02}.png")
    (folder / "set/images/07.png").write_bytes(b"not a picture")
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    models = ["--recipe", str(place / "tiny.toml"), "--backbone", str(place / "llava"), "--sam", str(place / "sam.safetensors")]
    start = [sys.executable, "-c", "from fseg.cli import main; main()", "eval", "--dataset", "folder", "--root", str(place / "set")]
    return [*start, *models, "--out", str(out), *more]


def start(place: Path, out: Path, workers: int = 1, cluster: str | None = None) -> multiprocessing.process.BaseProcess:
    """A run in a process of its own, forked from one that has imported everything: twenty kills need not import torch twenty times."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fseg.evaluation.run.runner"])
    process = context.Process(target=_evaluate, args=(place, out, workers, cluster))
    process.start()
    return process


def _evaluate(place: Path, out: Path, workers: int, cluster: str | None) -> None:
    recipe = fseg.get_recipe(place / "tiny.toml")
    job = Job("folder", place / "set", {recipe.name: recipe}, backbone=str(place / "llava"), sam=str(place / "sam.safetensors"))
    evaluate(job, out, workers=workers, threads=1, cluster=cluster)


def finish(place: Path, out: Path, workers: int = 1) -> None:
    """Go on to the end."""
    process = start(place, out, workers)
    process.join()
    assert process.exitcode == 0


def records(out: Path) -> list[str]:
    """The images that have a record, in any worker's file."""
    lines = [line for path in out.glob("records/*.jsonl") for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line)["image"] for line in lines]


def kill_after(count: int, place: Path, out: Path, workers: int = 1) -> list[psutil.Process]:
    """Kill a run once so many images are done; gives the processes that it had started."""
    process = start(place, out, workers)
    while len(records(out)) < count and process.exitcode is None:
        time.sleep(0.002)
    assert process.pid is not None
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    return children


def reached(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which processes listen."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found |= {one.laddr.ip.removeprefix("::ffff:") for one in process.net_connections() if one.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that nobody disturbed."""
    _evaluate(place, place / "whole", 1, None)
    return place / "whole"


@pytest.mark.slow
def test_an_evaluation_of_which_too_many_images_fail_ends_with_1(place: Path, whole: Path, tmp_path: Path) -> None:
    ended = subprocess.run(command(place, tmp_path, "--threads", "1"), capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr  # one image of twelve fails, which is more than 1 %
    assert "1 of 12 images failed" in ended.stderr
    assert "pottedplant" in ended.stdout
    assert (tmp_path / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_a_killed_evaluation_resumes_to_the_same_counts(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(KILLS):
        kill_after(min(len(records(out)) + 1, IMAGES - 1), place, out)
    before = records(out)
    assert len(before) < IMAGES
    finish(place, out)
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert records(out)[: len(before)] == before
    assert sorted(records(out)) == [f"{number:02}" for number in range(IMAGES)]  # none twice: nothing finished was done again


@pytest.mark.slow
def test_two_workers_count_what_one_counts_and_do_not_outlive_a_kill(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    children = kill_after(2, place, out, workers=2)
    assert len(children) >= 2
    assert living(children, 1) == []
    finish(place, out, workers=2)
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert sorted(records(out)) == [f"{number:02}" for number in range(IMAGES)]
    assert len(list(out.glob("records/*.jsonl"))) == 2


def living(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that have not ended so many seconds later. Whether somebody has fetched their exit code does not matter."""
    until = time.monotonic() + seconds
    while found := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return found


def holders(folder: Path) -> list[psutil.Process]:
    """The processes that have a file of a run's folder open; while there are any, its lock may be held."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(Path(file.path).parent == folder for file in process.open_files()):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_workers_that_are_still_importing_end_with_a_killed_run(place: Path, tmp_path: Path, delay: float) -> None:
    process = start(place, tmp_path, workers=2)
    assert process.pid is not None
    while len(children := psutil.Process(process.pid).children(recursive=True)) < 2:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.join()
    assert living(children, 1) == []
    assert holders(tmp_path) == []


PROGRAM = """
import signal, time
import fseg, probe, torch
from fseg.cli import main

@fseg.fusion("nearness", reads=lambda layers, **_: [probe.Hidden(fseg.band(layers), at=("image", "class"))])
def nearness(e, *, layers=(1, 3)):
    time.sleep(0.5)  # so that a run of eleven small images is not over before it is interrupted
    return e.fold(torch.cosine_similarity(e.hidden("image"), e.hidden("class")[:, -1:], dim=-1).mean(0))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without it
    main()
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_run_and_its_workers_in_one_line_that_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    """The program has a fusion of its own, which workers know, as they know what any main module defines before its guard."""
    out = tmp_path / "out"
    (tmp_path / "program.py").write_text(PROGRAM)
    tables = (place / "tiny.toml").read_text().split("\n\n")
    changed = ['[respond]\nfusion = "nearness"' if table.startswith("[respond]") else table for table in tables]
    (tmp_path / "own.toml").write_text("\n\n".join(changed))
    more = command(place, out, "--recipe", str(tmp_path / "own.toml"), "--workers", "2", "--threads", "1")[3:]
    run = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), *more], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not records(out) and run.poll() is None:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: every process of the run hears it
    _, printed = run.communicate(timeout=60)
    assert len(records(out)) < IMAGES  # it did not go on to the end first
    assert run.returncode == 130
    assert printed.splitlines()[-1] == "Interrupted. What is finished is kept; the same command goes on from there."
    assert "Traceback" not in printed
    assert holders(out) == []
    assert '"error"' not in "".join(path.read_text() for path in out.glob("records/*"))


@pytest.mark.parametrize(
    ("script", "slow", "line"),
    [
        ("fseg.cli", "fseg.pipeline.Segmenter", ["fseg", "segment", "a.png", "--classes", "cat", "--out", "out"]),
        pytest.param("probe.cli", "probe.model.load", ["probe", "inspect", "llava"], marks=pytest.mark.slow),
        pytest.param("probe.cli", "probe.cli.app", ["probe"], marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_every_command_in_one_line(tmp_path: Path, script: str, slow: str, line: list[str]) -> None:
    """Each while it opens a model that takes its time, or while the command line is read."""
    code = f"""if True:
        import signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without it
        import {script}, {slow.rpartition(".")[0]}
        {slow} = lambda *_, **__: (signal.raise_signal(signal.SIGINT), time.sleep(60))
        sys.argv = {line}
        {script}.main()
    """
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr == "Interrupted. What is finished is kept; the same command starts from the beginning.\n"


@pytest.mark.slow
def test_a_worker_that_cannot_begin_says_why(place: Path, tmp_path: Path) -> None:
    recipe = fseg.get_recipe(place / "tiny.toml").with_({"respond.layers": (7, 13)})
    job = Job("folder", place / "set", {"deep": recipe}, backbone=str(place / "llava"), sam=str(place / "sam.safetensors"), limit=1)
    with pytest.raises(WorkerDied, match=r"InvalidRecipe: .* Layer 7 was asked for"):
        evaluate(job, tmp_path, workers=2)  # of one image, one worker comes to life


on_a_cluster = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'fseg-llava[ray]'")


@pytest.mark.slow
@on_a_cluster
def test_actors_of_a_cluster_count_what_one_worker_counts_and_one_that_is_killed_loses_nothing(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ("--engine", "ray", "--workers", "2", "--threads", "1", "--batch", "2", "--save-masks")
    run = subprocess.Popen(command(place, out, *more), stderr=subprocess.DEVNULL)
    while len(records(out)) < 2 and run.poll() is None:
        time.sleep(0.002)
    actors = [child for child in psutil.Process(run.pid).children(recursive=True) if child.name().startswith("ray::Worker")]
    assert reached(actors) == {"127.0.0.1"}
    actors[0].kill()
    assert run.wait() == 1  # for the image that cannot be read, as without the kill
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert sorted(records(out)) == [f"{number:02}" for number in range(IMAGES)]
    assert len(list((out / "masks").iterdir())) == IMAGES - 1


@pytest.mark.slow
@on_a_cluster
def test_a_cluster_of_this_machine_is_reached_from_nowhere_else_and_ends_with_a_killed_run(place: Path, tmp_path: Path) -> None:
    process = start(place, tmp_path, cluster="local")
    assert process.pid is not None
    run = psutil.Process(process.pid)
    names: set[str] = set()
    while "ray::RuntimeEnvAgent" not in names:
        assert process.exitcode is None
        time.sleep(0.01)
        with suppress(psutil.NoSuchProcess):
            names = {child.name() for child in run.children(recursive=True)}
    cluster = run.children(recursive=True)
    assert {"gcs_server", "raylet", "ray::RuntimeEnvAgent"} < {one.name() for one in cluster}
    assert reached([run, *cluster]) == {"127.0.0.1"}
    process.kill()
    process.join()
    assert living(cluster, 5) == []


class EndsItsReader:
    """Stands for a picture of which a worker dies: a process that unpickles it ends."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


@pytest.mark.slow
@on_a_cluster
def test_an_image_of_which_every_worker_dies_is_a_failure_and_the_rest_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fseg.evaluation.distribution import ray_workers
    from fseg.evaluation.distribution.ray_workers import run_on_cluster
    from probe.workers.ray_cluster import LOCAL

    monkeypatch.setattr(ray_workers, "ATTEMPTS", 2)  # each costs a process that imports torch
    recipe = fseg.get_recipe(place / "tiny.toml")
    job = Job("folder", place / "set", {recipe.name: recipe}, backbone=str(place / "llava"), sam=str(place / "sam.safetensors"), limit=2)
    task = replace(task_of(job), batch=2)  # the worker that has both dies first; then each image has workers of its own
    deadly = replace(task.samples[0], image=EndsItsReader())
    opened: list[Any] = []
    done = list(run_on_cluster(task, [deadly, task.samples[1]], tmp_path, LOCAL, 1, opened.append, threads=1))
    assert [(record.image, record.error is None) for record in done] == [("00", False), ("01", True)]
    assert "2 workers ended while they did this image" in str(done[0].error)
    assert len(opened) == 4  # three that died and one for the rest


@pytest.mark.slow
@on_a_cluster
def test_a_cluster_that_cannot_do_the_work_is_named(place: Path, tmp_path: Path) -> None:
    recipe = fseg.get_recipe(place / "tiny.toml")
    job = Job("folder", place / "set", {recipe.name: recipe}, backbone=str(place / "llava"), sam=str(place / "sam.safetensors"))
    with pytest.raises(ClusterNotFound, match=r"No Ray cluster answers at '127\.0\.0\.1:1': .*Connection refused.* HOST:PORT"):
        evaluate(job, tmp_path, cluster="127.0.0.1:1")
    with pytest.raises(DeviceNotFound, match="2 workers with 1 GPU each were asked for; the cluster has 0"):
        evaluate(replace(job, device="cuda"), tmp_path, workers=2, cluster="local")
    deep = replace(job, rows={"deep": recipe.with_({"respond.layers": (7, 13)})})
    with pytest.raises(WorkerDied, match=r"InvalidRecipe: .* Layer 7 was asked for"):
        evaluate(deep, tmp_path, cluster="local")
    assert not list(tmp_path.glob("manifest.json"))


def test_a_cluster_without_ray_says_what_to_install(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = fseg.get_recipe(place / "tiny.toml")
    with pytest.raises(ClusterNotFound, match=r"pip install 'fseg-llava\[ray\]'"):
        evaluate(Job("folder", place / "set", {recipe.name: recipe}), tmp_path, cluster="local")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--address", "head:6379"), "Add --engine ray"),
        (("--dataset", "voc21"), "val.txt' cannot be read"),
        (("--dataset", "imagenet"), "No data set 'imagenet'. There are voc21, context60"),
        (("--root", "/no/such/folder"), "classes.txt"),
        (("--shard", "3/2"), "parts count from 1"),
        (("--classes", "everyday"), "No class list 'everyday'"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    import fseg.cli

    monkeypatch.setattr("sys.argv", ["fseg", *command(place, tmp_path / "out", *more)[3:]])
    with pytest.raises(SystemExit) as ended:
        fseg.cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_table_has_our_figures_beside_the_papers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fseg.cli

    def shell(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["fseg", *arguments])
        with pytest.raises(SystemExit) as ended:
            fseg.cli.main()
        return int(ended.value.code or 0), capsys.readouterr().out

    given = command(place, tmp_path / "out", "--limit", "2")[4:]
    code, printed = shell("ablate", "3", *given)
    assert code == 0
    rows = [line.split() for line in printed.splitlines()[2:5]]
    assert [row[0] for row in rows] == ["0-2", "1-3", "2-4"]
    assert all(row[2:] == ["-", "-"] for row in rows)
    assert "3 rows from one pass of the model over each image" in printed
    assert "\n".join(printed.splitlines()[:5]) in shell("table", "3", "--results", str(tmp_path))[1]
    assert "FSeg-LLaVA1.5" in shell("table", "1")[1]


def test_data_sets_are_listed_with_what_is_found(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import fseg.cli

    monkeypatch.setattr("sys.argv", ["fseg", "datasets", "--root", str(place / "set")])
    with pytest.raises(SystemExit):
        fseg.cli.main()
    printed = capsys.readouterr().out
    assert "voc21: 1449 images, 21 labels, label 0 is the background" in printed
    assert [line.split() for line in printed.splitlines()[-3:]] == [["images/*", "12"], ["labels/*.png", "12"], ["classes.txt", "1"]]
