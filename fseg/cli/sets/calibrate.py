"""`fseg calibrate`: layers, alpha and beta of a backbone that nobody has tuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, SamOption, output_path
from fseg.cli.sets.evaluate import (
    AddressOption,
    BatchOption,
    ClassesOption,
    Engine,
    EngineOption,
    LimitOption,
    MissingOption,
    RetryOption,
    RootOption,
    SetOption,
    ThreadsOption,
    WorkersOption,
    cluster_of,
)
from fseg.errors import InvalidOption, InvalidRecipe

if TYPE_CHECKING:
    from fseg.calibrate.calibration import Calibration
    from fseg.recipe import Recipe


def calibrate_command(
    dataset: SetOption,
    root: RootOption,
    out: Annotated[
        Path,
        typer.Option(
            help="The recipe to write, a .toml file; its figures (.json), its curve (.png) and the folder of the run lie beside it.",
            parser=output_path,
            metavar="FILE.toml",
        ),
    ],
    backbone: BackboneOption = None,
    sam: SamOption = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe whose other stages are kept, by name or as a .toml file. Default: the paper's stages.")
    ] = None,
    imports: ImportOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    classes: ClassesOption = "benchmark",
    limit: LimitOption = None,
    alphas: Annotated[str | None, typer.Option(help="The values of alpha to try, separated by commas.", metavar="A,B,...")] = None,
    betas: Annotated[str | None, typer.Option(help="The values of beta to try, separated by commas.", metavar="A,B,...")] = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    allow_missing: MissingOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Find layers, alpha and beta for a backbone from images with ground truth, and write a recipe.

    The model reads each image once. All bands of layers with all alphas and betas are compared by the refined masks, the best few with SAM.
    Killed at any moment and started again, it goes on and ends with the same recipe.

    Example: fseg calibrate --dataset voc21 --root /data --backbone llava-hf/llava-1.5-7b-hf --limit 100 --device cuda --out mine.toml
    """
    from fseg.calibrate.calibration import calibrate
    from fseg.calibrate.report import check_free, write_calibration
    from fseg.calibrate.rows import Thresholds
    from fseg.cli.models import hide_loading_bars
    from fseg.evaluation.run.job import Job
    from fseg.plugins import import_named

    cluster = cluster_of(engine, address)
    given = {name: _numbers(name, text) for name, text in (("alphas", alphas), ("betas", betas)) if text is not None}
    thresholds = Thresholds(**given)
    folder = check_free(out)
    imported = import_named(imports or ())
    base = base_recipe(recipe, imported, out.stem, backbone)
    job = Job(
        data_set=dataset,
        root=root,
        rows={base.name: base},
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
    calibration = calibrate(
        job,
        folder,
        out.stem,
        thresholds=thresholds,
        workers=workers,
        threads=threads,
        batch=batch,
        retry_failed=retry_failed,
        cluster=cluster,
    )
    write_calibration(out, calibration)
    _show(calibration, out)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """The numbers of an option.

    Raises:
        InvalidOption: one of them is none.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidOption(f"--{name} {text!r}: takes numbers separated by commas, such as 0.6,0.75.") from error


def base_recipe(recipe: str | None, imported: Sequence[str], name: str, backbone: str | None) -> Recipe:
    """The recipe whose layers, alpha and beta, or heads, are looked for.

    Raises:
        InvalidRecipe: neither a recipe nor a backbone was named.
        UnknownRecipe, InvalidOption, UnknownFusion: see `get_recipe`.
    """
    from fseg.cli.models import recipe_of
    from fseg.recipe import Recipe

    if recipe is not None:
        return recipe_of(recipe, imported)
    if backbone is None:
        raise InvalidRecipe("No model to look into: name the model by --backbone ID_OR_DIR, or a recipe of it by --recipe.")
    return Recipe(name, backbone)


def _show(calibration: Calibration, out: Path) -> None:
    """Print the finalists and what came of them; exit with 1 where too many images failed for the choice to be trusted."""
    from fseg.calibrate.report import files_of, finalists_table, summary
    from fseg.evaluation.report.summary import MOST_FAILURES

    wrote = ", ".join(str(path) for path in files_of(out))
    typer.echo("\n".join([*finalists_table(calibration), "", *summary(calibration), "", f"wrote {wrote}"]))
    failed, images = len(calibration.failures), calibration.images
    if failed > MOST_FAILURES * (failed + images):
        typer.echo(f"{failed} of {failed + images} images failed.", err=True)
        raise typer.Exit(1)
