"""`fseg heads`: the localisation heads of a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, output_path
from fseg.cli.sets.evaluate import (
    BatchOption,
    ClassesOption,
    LimitOption,
    MissingOption,
    RetryOption,
    RootOption,
    SetOption,
    ThreadsOption,
    WorkersOption,
)


def heads_command(
    dataset: SetOption,
    root: RootOption,
    out: Annotated[
        Path,
        typer.Option(
            help="The recipe to write, a .toml file; the folder of the run lies beside it.", parser=output_path, metavar="FILE.toml"
        ),
    ],
    backbone: BackboneOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe that gets the heads, by name or as a .toml file. Default: the paper's stages with the fusion heads."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many heads the recipe gets.")] = 3,
    imports: ImportOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    classes: ClassesOption = "benchmark",
    limit: LimitOption = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Find the attention heads of a backbone that look at one object, from images with ground truth, and write a recipe that names them.

    Each class that an image's ground truth shows is asked about, and each head's attention to the image is judged by its sum and its spatial
    entropy. Killed at any moment and started again, it goes on.

    Example: fseg heads --dataset voc21 --root /data --backbone llava-hf/llava-1.5-7b-hf --limit 200 --device cuda --out heads.toml
    """
    from fseg.calibrate.heads import rank_heads
    from fseg.calibrate.report import check_free_for_heads, write_heads
    from fseg.cli.models import hide_loading_bars
    from fseg.cli.sets.calibrate import base_recipe
    from fseg.evaluation.report.summary import MOST_FAILURES
    from fseg.evaluation.run.job import Job
    from fseg.plugins import import_named

    folder = check_free_for_heads(out)
    imported = import_named(imports or ())
    base = base_recipe(recipe, imported, out.stem, backbone).with_({"name": out.stem})
    base = base if backbone is None else base.with_({"backbone": backbone})
    job = Job(
        data_set=dataset,
        root=root,
        rows={base.name: base},
        class_list=classes,
        device=device,
        dtype=dtype,
        limit=limit,
        allow_missing=allow_missing,
        imports=imported,
    )
    hide_loading_bars()
    ranking = rank_heads(job, folder, count, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed)
    typer.echo("\n".join([*write_heads(out, ranking), "", f"wrote {out}"]))
    failed, images = len(ranking.failures), ranking.images
    if failed > MOST_FAILURES * (failed + images):
        typer.echo(f"{failed} of {failed + images} images failed.", err=True)
        raise typer.Exit(1)
