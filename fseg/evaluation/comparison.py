"""Several recipes over one data set: a run, and the page, the table and the picture that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fseg.drawing.comparison import ComparedImage, comparison_figure
from fseg.drawing.png import png_of
from fseg.evaluation.measure import from_one, headline, predictions
from fseg.evaluation.report.comparing import Apart, Comparison, compare, comparison_csv, comparison_markdown
from fseg.evaluation.report.results import write_results
from fseg.evaluation.run.content import prepare
from fseg.evaluation.run.job import Job, Task, open_sweep, task_of
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Record
from fseg.evaluation.run.runner import run
from fseg.sweep import Sweep
from probe.disk.files import write_atomically

PAGE, TABLE, PICTURE = "comparison.md", "comparison.csv", "comparison.png"


def compare_recipes(
    job: Job,
    out: Path,
    *,
    images: int = 4,
    workers: int = 1,
    threads: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
) -> Comparison:
    """Evaluate the recipes of a job with shared forwards, and compare them. Goes on as `fseg.evaluation.run.runner.evaluate` does.

    Args:
        out: gets, besides the files of the run, `comparison.md`, `comparison.csv` and, if some image tells the recipes apart, `comparison.png`.
        images: how many images the picture shows; they are segmented once more for it. 0: no picture.
        workers, threads, batch, retry_failed, cluster: as `evaluate` takes them.

    Raises:
        InvalidRecipe: every image failed; and see `evaluate`.
        OutputError: a file cannot be written.
    """
    task = task_of(job)

    def finish(manifest: Manifest, records: Sequence[Record]) -> Comparison:
        write_results(out, manifest, task.declared, job.rows, records)
        comparison = compare(manifest, task.declared, job.rows, records, images)
        write_atomically(out / PAGE, lambda file: file.write(comparison_markdown(comparison).encode()))
        write_atomically(out / TABLE, lambda file: file.write(comparison_csv(comparison).encode()))
        return comparison

    comparison = run(task, out, finish, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed, cluster=cluster)
    if comparison.furthest:
        _draw(task, comparison, out / PICTURE)
    return comparison


def _draw(task: Task, comparison: Comparison, path: Path) -> None:
    """Draw the images on which the recipes are furthest apart."""
    sweep = open_sweep(task.job, task.job.device)
    shown = [_segmented(task, sweep, one) for one in comparison.furthest]
    drawn = png_of(comparison_figure(shown, list(task.classes)))
    write_atomically(path, lambda file: file.write(drawn))


def _segmented(task: Task, sweep: Sweep, apart: Apart) -> ComparedImage:
    sample = next(sample for sample in task.samples if sample.name == apart.image)
    read = prepare(sweep.segmenter.model.prepare, sample)
    results = sweep(read.image, task.classes)
    labels = {
        f"{name}: {100 * apart.miou[name]:.0f}": predictions(task.declared, result)[headline(task.declared, result.recipe)]
        for name, result in results.items()
    }
    return ComparedImage(Image.open(sample.image).convert("RGB"), from_one({"truth": read.truth, **labels}, task.declared))
