"""Acceptance of `fseg eval` on held-out scenes of the glyph world: the same counts however it is run, an oracle's mIoU, and what it costs.

    python -m tests.benchmarks.evaluation --n 200 --json evaluation.json

Writes the scenes as a data set; evaluates them from the shell in 1, 2 and 4 processes, four images together, and in the actors of a Ray
cluster, and compares results and label maps byte for byte; kills a run twenty times at random moments and lets it go on each time; has
torchmetrics count the label maps again; times an evaluation against a plain loop over the same images, turn by turn. Ends with 1 where a
figure differs. Times are printed and never judged.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import fseg  # isort: skip  # before torchmetrics, which looks for torchvision

import numpy as np
import torch
import typer
from PIL import Image
from torchmetrics import JaccardIndex

from fseg.evaluation.run.job import Job, task_of
from fseg.evaluation.run.runner import evaluate
from fseg.glyphs import CLASSES
from fseg.glyphs.make import write_voc
from fseg.result import versions

WAYS = {"1 worker": ["--workers", "1"], "2 workers": ["--workers", "2"], "4 workers": ["--workers", "4"], "batch of 4": ["--batch", "4"]}
ON_RAY = {"ray, 2 actors": ["--engine", "ray", "--workers", "2"]}

TARGET = 1.05
"""An evaluation's time over that of segmenting alone."""

TOLERANCE = 1e-6
"""torchmetrics divides in float32."""


@dataclass(frozen=True)
class Run:
    """One evaluation from the shell: how long it took, start included, and whether its files are those of the first run."""

    way: str
    seconds: float
    images: int
    failed: int
    miou: float
    same_results: bool
    same_masks: bool


@dataclass(frozen=True)
class Cost:
    """Seconds of evaluations and of plain loops over the same images, turn by turn, one process, models loaded before."""

    images: int
    evaluation: list[float]
    loop: list[float]

    @property
    def ratio(self) -> float:
        """Median over median."""
        return median(self.evaluation) / median(self.loop)


def run_from_shell(root: Path, out: Path, recipe: str, threads: int, more: list[str]) -> float:
    """Evaluate by the command line; gives the seconds."""
    command = [*arguments(root, out, recipe, threads), *more]
    typer.echo(f"fseg {shlex.join(command[3:])}", err=True)
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def arguments(root: Path, out: Path, recipe: str, threads: int) -> list[str]:
    """The command line of an evaluation."""
    given = ["eval", "--dataset", "glyphs", "--root", str(root), "--recipe", recipe, "--out", str(out), "--save-masks"]
    return [sys.executable, "-c", "from fseg.cli import main; main()", *given, "--threads", str(threads)]


def killed(root: Path, out: Path, recipe: str, threads: int, kills: int, pause: float) -> float:
    """Evaluate by the command line, killed every `pause` seconds or so, and to the end at last; gives the seconds.

    Raises:
        AssertionError: an image that was done when the run was killed was done again.
    """
    rng = np.random.default_rng(0)
    begun = time.perf_counter()
    for _ in range(kills):
        before = len(_recorded(out))
        process = subprocess.Popen(
            arguments(root, out, recipe, threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(_recorded(out)) == before:  # its models are loaded, and it is at work
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2 * pause))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_from_shell(root, out, recipe, threads, [])
    done = _recorded(out)
    assert len(done) == len(set(done)), "an image was done twice"
    return time.perf_counter() - begun


def _recorded(out: Path) -> list[str]:
    """The images that have a record; a line that was cut by a kill is none."""
    lines = [line for path in out.glob("records/*.jsonl") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return [json.loads(line)["image"] for line in lines]


def compare(way: str, seconds: float, out: Path, first: Path) -> Run:
    """What a run made, beside the first one."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return Run(
        way,
        seconds,
        results["images"],
        results["failed"],
        results["miou"],
        (out / "results.json").read_bytes() == (first / "results.json").read_bytes(),
        _files(out / "masks") == _files(first / "masks"),
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def oracle(root: Path, out: Path) -> float:
    """The mIoU of the saved label maps by torchmetrics."""
    jaccard = JaccardIndex(task="multiclass", num_classes=len(CLASSES) + 1, ignore_index=255)
    for mask in sorted((out / "masks").iterdir()):
        predicted, truth = (_labels(path) for path in (mask, root / "VOCdevkit/VOC2012/SegmentationClass" / mask.name))
        jaccard.update(predicted[None], truth[None])
    return float(jaccard.compute())


def _labels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).astype(np.int64))


def cost(root: Path, folder: Path, recipe: str, threads: int, images: int, rounds: int) -> Cost:
    """Time evaluations, label maps saved, and plain loops; in every second round the loop comes first."""
    segmenter = fseg.Segmenter(recipe)
    job = Job("glyphs", root, {recipe: segmenter.recipe}, backbone=segmenter.model, sam=segmenter.sam, limit=images, save_masks=True)
    files = [sample.image for sample in task_of(job).samples]
    torch.set_num_threads(threads)
    segmenter(files[0], CLASSES)  # the first image also pays for what is made once

    def loop(_: int) -> None:
        for file in files:
            segmenter(file, CLASSES)

    def evaluation(number: int) -> None:
        evaluate(job, folder / f"round-{number}", threads=threads)

    times: dict[Callable[[int], None], list[float]] = {evaluation: [], loop: []}
    for number in range(rounds):
        for work in (evaluation, loop) if number % 2 == 0 else (loop, evaluation):
            begun = time.perf_counter()
            work(number)
            times[work].append(time.perf_counter() - begun)
    return Cost(len(files), times[evaluation], times[loop])


def report(runs: list[Run], counted: float, timed: Cost) -> str:
    """The table on the screen."""
    lines = [f"{'':<14}  seconds  images  failed    mIoU  same results  same masks"]
    lines += [
        f"{run.way:<14}  {run.seconds:7.1f}  {run.images:6}  {run.failed:6}  {run.miou:.4f}  "
        f"{'yes' if run.same_results else 'NO':>12}  {'yes' if run.same_masks else 'NO':>10}"
        for run in runs
    ]
    first = runs[0].miou
    lines += [
        "",
        f"torchmetrics on the saved masks: mIoU {counted:.7f}, ours {first:.7f}, difference {abs(counted - first):.1e}",
        f"evaluation {median(timed.evaluation):.2f} s, plain loop {median(timed.loop):.2f} s (medians of {len(timed.loop)}, "
        f"{timed.images} images): ratio {timed.ratio:.3f}, wanted at most {TARGET}",
    ]
    return "\n".join(lines)


def measure(folder: Path, n: int, recipe: str, threads: int, images: int, rounds: int, kills: int) -> tuple[list[Run], float, Cost]:
    """Everything, in a folder."""
    root = folder / "set"
    write_voc(root, n)
    ways = {**WAYS, **(ON_RAY if find_spec("ray") is not None else {})}
    outs = {way: folder / way.replace(", ", "-").replace(" ", "-") for way in ways}
    first = outs["1 worker"]
    runs = [compare(way, run_from_shell(root, outs[way], recipe, threads, more), outs[way], first) for way, more in ways.items()]
    if kills:
        out = folder / "killed"
        took = killed(root, out, recipe, threads, kills, runs[0].seconds / kills / 2)
        runs.append(compare(f"{kills} kills", took, out, first))
    return runs, oracle(root, first), cost(root, folder, recipe, threads, min(images, n), rounds)


def main(
    n: Annotated[int, typer.Option("--n", min=1, help="How many held-out scenes.")] = 200,
    images: Annotated[int, typer.Option(min=1, help="Of these, how many are timed in each round.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="How often evaluation and loop take turns.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of every process.")] = 1,
    kills: Annotated[int, typer.Option(min=0, help="How often a run is killed.")] = 20,
    recipe: Annotated[str, typer.Option(help="The recipe to evaluate.")] = "glyphs",
    file: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Check that an evaluation counts the same however it is run, and time it."""
    with TemporaryDirectory() as folder:
        runs, counted, timed = measure(Path(folder), n, recipe, threads, images, rounds, kills)
    typer.echo(report(runs, counted, timed))
    if file is not None:
        figures: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "tests.benchmarks.evaluation", *sys.argv[1:]]),
            "runs": [asdict(run) for run in runs],
            "torchmetrics": counted,
            "cost": {**asdict(timed), "ratio": timed.ratio, "wanted": TARGET},
            "cores": os.cpu_count(),
            "versions": versions(),
        }
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if abs(counted - runs[0].miou) > TOLERANCE or not all(run.same_results and run.same_masks for run in runs):
        typer.echo("The counts differ.", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
