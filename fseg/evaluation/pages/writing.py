"""Writing the pages of a run."""

from __future__ import annotations

from html import escape
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fseg.checks import check_int
from fseg.drawing.label_map import overlay
from fseg.errors import InvalidRecipe
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import from_one, headline, predictions
from fseg.evaluation.pages.choosing import Worst, worst_images
from fseg.evaluation.report.summary import RunResults, label_names
from fseg.evaluation.report.text import percent
from fseg.evaluation.run.content import prepare
from fseg.evaluation.run.job import Job, Task, open_sweep, task_of
from fseg.evaluation.run.record_files import read_records
from fseg.sweep import Sweep
from probe.disk.files import write_atomically
from probe.notebook import Html, table
from probe.views.page.packing import pack
from probe.views.page.shell import resource, standalone

INDEX, FOLDER = "index.html", "pages"

THUMBNAIL = 320
"""The longest side of an image in the index, in pixels."""

Thumbnails = tuple[bytes, bytes]
"""JPEGs of an image with its ground truth, and with what was predicted."""


def write_pages(job: Job, out: Path, results: RunResults, count: int) -> Path:
    """Write the pages of the images that a finished run did worst, and an index with the IoU of each class.

    The images are segmented once more, in this process; the run's counts stay as they are.

    Args:
        job: of one recipe.
        out: the folder of its run; gets `index.html` and `pages/IMAGE.html`. Earlier ones are replaced.
        results: of the run.
        count: how many images, at least 1.

    Returns:
        the index.

    Raises:
        InvalidOption: the count is not such a number.
        InvalidRecipe: the job has several recipes.
        OutputError: a file cannot be written.
    """
    check_int("pages", count, at_least=1)
    if len(job.rows) != 1:
        raise InvalidRecipe(f"Pages show one recipe, and this run has {len(job.rows)}. Evaluate one of them.")
    task = task_of(job)
    ((row, recipe),) = job.rows.items()
    names = label_names(task.declared, task.classes)
    worst = worst_images(read_records(out, task.expected()).values(), row, headline(task.declared, recipe), names, count)
    sweep = open_sweep(job, job.device) if worst else None
    samples = {sample.name: sample for sample in task.samples}
    thumbnails = [_written(task, sweep, samples[one.image], _page(one.image, out)) for one in worst if sweep]
    index = _index(results, worst, thumbnails)
    write_atomically(out / INDEX, lambda file: file.write(index))
    return out / INDEX


def _page(image: str, out: Path) -> Path:
    return out / FOLDER / f"{image}.html"


def _written(task: Task, sweep: Sweep, sample: Sample, page: Path) -> Thumbnails:
    """Segment an image again, write its page, and draw its thumbnails."""
    read = prepare(sweep.segmenter.model.prepare, sample)
    (result,) = sweep(read.image, task.classes).values()
    result.page(page, overwrite=True)
    predicted = predictions(task.declared, result)[headline(task.declared, result.recipe)]
    drawn = from_one({"truth": read.truth, "predicted": predicted}, task.declared)
    truth, said = (_thumbnail(overlay(result.image, labels, result.classes, legend=False)) for labels in drawn.values())
    return truth, said


def _thumbnail(image: Image.Image) -> bytes:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _index(results: RunResults, worst: tuple[Worst, ...], thumbnails: list[Thumbnails]) -> bytes:
    title = f"{results['data_set']}, recipe {results['recipe']['name']}: mIoU {percent(results['miou']).strip()}"
    images = [
        {
            "name": one.image,
            "page": quote(f"{FOLDER}/{one.image}.html"),
            "miou": one.miou,
            "missed": one.missed,
            "invented": one.invented,
            "classes": one.classes,
        }
        for one in worst
    ]
    header = {
        "title": title,
        "facts": f"{results['images']} images, {results['failed']} failed, class list {results['class_list']}",
        "classes": [{"name": name, "iou": iou} for name, iou in results["classes"].items()],
        "images": images,
        "failures": [f"{name}: {reason}" for name, reason in results["failures"].items()],
    }
    arrays: dict[str, NDArray[np.generic]] = {
        f"image {number}": np.frombuffer(jpeg, dtype=np.uint8) for number, jpeg in enumerate(jpeg for pair in thumbnails for jpeg in pair)
    }
    links = "".join(f'<li><a href="{image["page"]}">{escape(str(image["name"]))}</a></li>' for image in images)
    classes = table([(name, percent(iou).strip()) for name, iou in results["classes"].items()], ("class", "IoU"))
    return standalone(
        title,
        style=resource("index.css", "fseg.evaluation.pages"),
        script=resource("index.js", "fseg.evaluation.pages"),
        data=pack(header, arrays),
        shown="the images, and to sort the tables",
        without=Html(f"<p>{escape(title)}</p>\n<ul>{links}</ul>\n{classes}"),
    )
