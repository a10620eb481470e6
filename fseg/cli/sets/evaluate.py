"""`fseg eval`, `merge` and `ablate`: evaluate recipes on data sets."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, RecipeOption, SamOption, output_path
from fseg.errors import InvalidOption
from fseg.evaluation.datasets.declarations import DATA_SETS
from fseg.evaluation.report.published import ABLATIONS

if TYPE_CHECKING:
    from fseg.evaluation.report.summary import RunResults
    from fseg.evaluation.run.job import Job


class Engine(StrEnum):
    """Where the workers of a run live."""

    LOCAL = "local"
    RAY = "ray"


def _data_sets(incomplete: str) -> list[str]:
    """The data sets whose names begin so, for shell completion."""
    return [name for name in DATA_SETS if name.startswith(incomplete)]


SetOption = Annotated[
    str,
    typer.Option(help=f"{', '.join(DATA_SETS)}: see `fseg datasets`.", metavar="NAME", autocompletion=_data_sets),
]
RootOption = Annotated[Path, typer.Option(help="The folder that holds the data set's files.")]
ClassesOption = Annotated[str, typer.Option(help="benchmark, natural, or a file with one class a line.", metavar="LIST_OR_FILE")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes, each with its own models; with --device cuda, each on its own GPU.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each worker. Runs that have to agree in every pixel need the same number.")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images that go through the language model together. Default: 1 on the CPU, 4 on a GPU, where runs that "
        "have to agree in every pixel need 1.",
    ),
]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Go on where files are missing; the result says so.")]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Do images again that failed in an earlier run.")]
EngineOption = Annotated[Engine, typer.Option(help="local: processes of this machine. ray: actors of a Ray cluster (fseg-llava[ray]).")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="The address of the Ray cluster's head, or auto. Default: RAY_ADDRESS, else a cluster on this machine for the run.",
        metavar="HOST:PORT",
    ),
]
OutOption = Annotated[
    Path, typer.Option(help="The folder of the run. Started again with the same one, it goes on.", parser=output_path, metavar="PATH")
]


def eval_command(
    dataset: SetOption,
    root: RootOption,
    out: OutOption,
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    classes: ClassesOption = "benchmark",
    limit: LimitOption = None,
    shard: Annotated[str, typer.Option(help="The part to do, 2/8 the second of eight; then `fseg merge`.", metavar="I/N")] = "1/1",
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    save_masks: Annotated[
        bool, typer.Option("--save-masks", help="Keep the label maps as PNGs, in the pixel values of the set's ground truth.")
    ] = False,
    pages: Annotated[
        int, typer.Option(min=0, help="Of so many of the worst images a page to look at, and an index.html of the run.", metavar="N")
    ] = 0,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Evaluate a recipe on a data set: results.json and table.txt in the folder of the run.

    Killed at any moment and started again, it goes on and ends with the same figures. Exits with 1 if more than 1 % of the images fail.

    Example: fseg eval --dataset voc21 --root /data --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --workers 4 --out voc
    """
    from fseg.cli.models import recipe_of
    from fseg.evaluation.run.job import Job, Shard
    from fseg.plugins import import_named

    imported = import_named(imports or ())
    chosen = recipe_of(recipe, imported)
    job = Job(
        data_set=dataset,
        root=root,
        rows={chosen.name: chosen},
        class_list=classes,
        backbone=backbone,
        sam=sam,
        device=device,
        dtype=dtype,
        limit=limit,
        shard=Shard.parse(shard),
        allow_missing=allow_missing,
        save_masks=save_masks,
        imports=imported,
    )
    results = _evaluate(job, out, workers, threads, batch, retry_failed, cluster_of(engine, address))
    if pages:
        from fseg.evaluation.pages import write_pages

        typer.echo(f"wrote {write_pages(job, out, results, pages)}")
    _show(results, out)


def merge_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, one for each part.", metavar="DIR...")],
    root: RootOption,
    out: Annotated[Path, typer.Option(help="The folder for the results of the whole set.", parser=output_path, metavar="PATH")],
    imports: ImportOption = None,
) -> None:
    """Merge the parts of a set that were evaluated with --shard."""
    from fseg.evaluation.run.merging import merge
    from fseg.plugins import import_named

    import_named(imports or ())
    _show(merge(folders, root, out), out)


def ablate_command(
    number: Annotated[int, typer.Argument(min=min(ABLATIONS), max=max(ABLATIONS), help="The table of the paper, 2 to 6.")],
    dataset: SetOption,
    root: RootOption,
    out: OutOption,
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    classes: ClassesOption = "benchmark",
    limit: LimitOption = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Evaluate each row of an ablation, and print our figure next to the paper's. Rows share the model's forwards.

    2: the question, 3: the layers, 4: the prompts, 5: the response map, 6: the refined mask. Goes on as `fseg eval` does.

    Example: fseg ablate 3 --dataset voc21 --root /data --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --out table-3
    """
    from fseg.cli.models import recipe_of
    from fseg.evaluation.report.ablations import ablation_rows, passes
    from fseg.evaluation.report.tables import ablation_table
    from fseg.evaluation.run.job import Job
    from fseg.plugins import import_named

    imported = import_named(imports or ())
    rows = ablation_rows(number, recipe_of(recipe, imported), backbone)
    job = Job(
        data_set=dataset,
        root=root,
        rows=rows,
        class_list=classes,
        backbone=backbone,
        sam=sam,
        device=device,
        dtype=dtype,
        limit=limit,
        allow_missing=allow_missing,
        imports=imported,
    )
    results = _evaluate(job, out, workers, threads, batch, retry_failed, cluster_of(engine, address))
    shared = "one pass of the model" if passes(rows) == 1 else f"{passes(rows)} passes of the model, one for each question,"
    typer.echo(f"{ablation_table(number, results)}\n\n{len(rows)} rows from {shared} over each image\n")
    _show(results, out)


def _evaluate(
    job: Job, out: Path, workers: int, threads: int | None, batch: int | None, retry_failed: bool, cluster: str | None
) -> RunResults:
    from fseg.cli.models import hide_loading_bars
    from fseg.evaluation.run.runner import evaluate  # needs POSIX file locks, which segmenting does not

    hide_loading_bars()
    return evaluate(job, out, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed, cluster=cluster)


def cluster_of(engine: Engine, address: str | None) -> str | None:
    """The address of the cluster that the options name; None for the processes of this machine.

    Raises:
        InvalidOption: an address without the engine that takes it.
    """
    if engine is Engine.RAY:
        return address or os.environ.get("RAY_ADDRESS") or "local"
    if address is not None:
        raise InvalidOption(f"--address {address} is that of a Ray cluster, and the engine is {engine}. Add --engine ray.")
    return None


def _show(results: RunResults, out: Path) -> None:
    """Print a run's results, and exit with 1 where too many images failed for them to be trusted."""
    from fseg.evaluation.report.summary import too_many_failed
    from fseg.evaluation.report.text import table

    typer.echo(f"{table(results)}\n\nwrote {out / 'results.json'}")
    if too_many_failed(results):
        typer.echo(f"{results['failed']} of {results['images'] + results['failed']} images failed.", err=True)
        raise typer.Exit(1)
