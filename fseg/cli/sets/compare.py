"""`fseg compare`: several recipes over one data set."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, SamOption
from fseg.cli.sets.evaluate import (
    AddressOption,
    BatchOption,
    ClassesOption,
    Engine,
    EngineOption,
    LimitOption,
    MissingOption,
    OutOption,
    RetryOption,
    RootOption,
    SetOption,
    ThreadsOption,
    WorkersOption,
    cluster_of,
)
from fseg.errors import InvalidRecipe

if TYPE_CHECKING:
    from fseg.recipe import Recipe


def compare_command(
    recipes: Annotated[list[str], typer.Argument(help="Registered recipes or .toml files, the first one what the others are measured by.")],
    dataset: SetOption,
    root: RootOption,
    out: OutOption,
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    classes: ClassesOption = "benchmark",
    limit: LimitOption = None,
    images: Annotated[int, typer.Option(min=0, help="How many of the images that tell the recipes apart are drawn.")] = 4,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Compare recipes that share a backbone: mIoU with paired intervals, IoU by class, and the images where they differ most.

    Writes comparison.md, comparison.csv and comparison.png beside the files of the run, which goes on as `fseg eval` does.

    Example: fseg compare glyphs glyphs-fast glyphs-heads --dataset glyphs --root data --out compared
    """
    from fseg.cli.models import hide_loading_bars, recipe_of
    from fseg.evaluation.comparison import PAGE, compare_recipes
    from fseg.evaluation.report.comparing import comparison_markdown
    from fseg.evaluation.run.job import Job
    from fseg.plugins import import_named

    imported = import_named(imports or ())
    job = Job(
        data_set=dataset,
        root=root,
        rows=_by_name([recipe_of(name, imported) for name in recipes]),
        class_list=classes,
        backbone=backbone,
        sam=sam,
        device=device,
        dtype=dtype,
        limit=limit,
        allow_missing=allow_missing,
        imports=imported,
    )
    hide_loading_bars()
    cluster = cluster_of(engine, address)
    comparison = compare_recipes(
        job, out, images=images, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed, cluster=cluster
    )
    typer.echo(f"{comparison_markdown(comparison)}\nwrote {out / PAGE}")


def _by_name(recipes: list[Recipe]) -> dict[str, Recipe]:
    """The recipes by name.

    Raises:
        InvalidRecipe: there are fewer than two, or two of one name.
    """
    if len(recipes) < 2:
        raise InvalidRecipe("A comparison needs two recipes or more. `fseg eval` evaluates one.")
    ((name, often),) = Counter(recipe.name for recipe in recipes).most_common(1)
    if often > 1:
        raise InvalidRecipe(f"Two of the recipes are called {name!r}. Give one of them another name: its file begins with `name = ...`.")
    return {recipe.name: recipe for recipe in recipes}
