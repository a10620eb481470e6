"""`fseg datasets`, `eval`, `merge`, `ablate` and `table`: measure recipes on the field's data sets, and fill the paper's tables."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, RecipeOption, SamOption, place
from fseg.errors import InvalidOption
from fseg.evaluation.datasets.readers import BENCHMARKS, DATA_SETS, data_set, found, tree
from fseg.evaluation.report.published import ABLATIONS
from fseg.evaluation.report.results import table, too_many_failed
from fseg.evaluation.report.tables import ablation_markdown, ablation_rows, ablation_table, comparison, passes, read_results
from fseg.evaluation.run.job import Job, Shard
from fseg.imports import import_named
from fseg.recipe import get_recipe


class Engine(StrEnum):
    """Where the workers of a run live."""

    LOCAL = "local"
    RAY = "ray"


SetOption = Annotated[str, typer.Option(help=f"{', '.join(DATA_SETS)}: see `fseg datasets`.", metavar="NAME")]
RootOption = Annotated[Path, typer.Option(help="The folder that holds the set's tree.")]
ClassesOption = Annotated[str, typer.Option(help="benchmark, natural, or a file with one class a line.", metavar="LIST_OR_FILE")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="Processes, each with models of its own; with --device cuda, each on a GPU of its own.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Of each worker on the CPU. Runs that agree in every pixel have the same.")]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Go on where files are missing; the result says so.")]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Do images again that failed in an earlier run.")]
EngineOption = Annotated[Engine, typer.Option(help="local: processes of this machine. ray: actors of a Ray cluster (fseg-llava[ray]).")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster's head, or auto. Without it RAY_ADDRESS, or a cluster of this machine for the run.", metavar="HOST:PORT"
    ),
]
OutOption = Annotated[
    Path, typer.Option(help="The folder of the run. Started again with the same one, it goes on.", parser=place, metavar="PATH")
]


def datasets_command(root: Annotated[Path | None, typer.Option(help="Count the files under this folder.")] = None) -> None:
    """Show the files that each data set should have, and with --root which are there."""
    for name, declared in BENCHMARKS.items():
        images = f"{declared.count} images, " if declared.count else ""
        background = "label 0 is the background" if declared.background else "no background"
        typer.echo(f"{name}: {images}{declared.labels} labels, {background}")
        typer.echo(f"{tree(declared) if root is None else found(declared, root)}\n")
    typer.echo("glyphs: the tree of voc21, written by python -m fseg.glyphs.make\n")
    typer.echo("folder: any images with labels of the same names; classes.txt names label n in line n, a first line `background` label 0")
    if root is not None and (root / "classes.txt").is_file():
        typer.echo(found(data_set("folder", root), root))
    else:
        typer.echo("  images/*\n  labels/*.png\n  classes.txt")


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
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    save_masks: Annotated[
        bool, typer.Option("--save-masks", help="Keep the label maps as PNGs, in the values of the set's truth.")
    ] = False,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Measure a recipe on a data set: results.json and table.txt in the folder of the run.

    Killed at any moment and started again, it goes on and ends with the same figures. Exits with 1 if more than 1 % of the images fail.

    Example: fseg eval --dataset voc21 --root /data --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --workers 4 --out voc
    """
    from fseg.evaluation.run.runner import evaluate  # needs POSIX file locks, which segmenting does not

    imported = import_named(imports or ())
    chosen = get_recipe(recipe)
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
    show(evaluate(job, out, workers=workers, threads=threads, retry_failed=retry_failed, cluster=_cluster(engine, address)), out)


def merge_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, one for each part.", metavar="DIR...")],
    root: RootOption,
    out: Annotated[Path, typer.Option(help="The folder for the results of the whole.", parser=place, metavar="PATH")],
    imports: ImportOption = None,
) -> None:
    """Put the parts of a set that were evaluated with --shard together."""
    from fseg.evaluation.run.merging import merge

    import_named(imports or ())
    show(merge(folders, root, out), out)


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
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Measure each row of an ablation, and print our figure beside the paper's. Rows share what the model does.

    2: the question, 3: the layers, 4: the prompts, 5: the response map, 6: the refined mask. Goes on as `fseg eval` does.

    Example: fseg ablate 3 --dataset voc21 --root /data --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --out table-3
    """
    from fseg.evaluation.run.runner import evaluate

    imported = import_named(imports or ())
    rows = ablation_rows(number, get_recipe(recipe), backbone)
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
    results = evaluate(job, out, workers=workers, threads=threads, retry_failed=retry_failed, cluster=_cluster(engine, address))
    looks = "one look of the model" if passes(rows) == 1 else f"{passes(rows)} looks of the model, one for each question,"
    typer.echo(f"{ablation_table(number, results)}\n\n{len(rows)} rows from {looks} at each image\n")
    show(results, out)


def table_command(
    number: Annotated[int, typer.Argument(min=1, max=max(ABLATIONS), help="The table of the paper, 1 to 6.")],
    results: Annotated[list[Path] | None, typer.Option(help="A folder with finished runs in it, once or several times.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print an ablation, 2 to 6, in Markdown.")] = False,
) -> None:
    """Print a table of the paper. Table 1 gets a row for each recipe in --results, and the two stronger methods that the paper leaves out."""
    measured = read_results(results or [])
    if number not in ABLATIONS:
        if markdown:
            raise InvalidOption("--markdown is for the ablations, Tables 2 to 6.")
        typer.echo(comparison(measured))
        return
    fitting = [one for one in measured if any(f"/table-{number}/" in row["recipe"]["name"] for row in one.get("rows", {}).values())]
    render = ablation_markdown if markdown else ablation_table
    typer.echo("\n\n".join(render(number, one) for one in fitting) if fitting else render(number))


def _cluster(engine: Engine, address: str | None) -> str | None:
    if engine is Engine.RAY:
        return address or os.environ.get("RAY_ADDRESS") or "local"
    if address is not None:
        raise InvalidOption(f"--address {address} is of a Ray cluster, and the engine is {engine}. Add --engine ray.")
    return None


def show(results: dict[str, Any], out: Path) -> None:
    """Print a run's results, and say by the exit code whether they can be trusted."""
    typer.echo(f"{table(results)}\n\nwrote {out / 'results.json'}")
    if too_many_failed(results):
        typer.echo(f"{results['failed']} of {results['images'] + results['failed']} images failed.", err=True)
        raise typer.Exit(1)
