"""`fseg recipes`, `datasets` and `table`: print what is known, without running a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.cli.options import ImportOption
from fseg.errors import InvalidOption, InvalidRecipe
from fseg.evaluation.report.published import ABLATIONS


def recipes_command(
    ablations: Annotated[bool, typer.Option("--ablations", help="Also the rows of the paper's Tables 2 to 6.")] = False,
    imports: ImportOption = None,
) -> None:
    """List the registered recipes, with the model, layers and SAM of each."""
    from fseg.plugins import import_named
    from fseg.recipe import recipes

    import_named(imports or ())
    names = [name for name in recipes() if ablations or "/" not in name]
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:<{width}}  {_models(name)}")


def _models(name: str) -> str:
    """The models, fusion and layers of a registered recipe, in a line; the error where two packages register that name."""
    from fseg.recipe import get_recipe

    try:
        recipe = get_recipe(name)
    except InvalidRecipe as error:
        return str(error)
    options = recipe.respond.options
    layers = f"layers {options['layers']}" if "layers" in options else ""
    return f"{recipe.backbone}  {recipe.respond.fusion} {layers}  SAM {recipe.sam.checkpoint}" + (
        f"  ({recipe.note})" if recipe.note else ""
    )


def datasets_command(root: Annotated[Path | None, typer.Option(help="Count the files under this folder.")] = None) -> None:
    """Show the files of each data set, and with --root how many of them exist."""
    from fseg.evaluation.datasets.declarations import BENCHMARKS, data_set
    from fseg.evaluation.datasets.readers import counted_tree, tree
    from fseg.worlds.weights import WORLDS

    for name, declared in BENCHMARKS.items():
        images = f"{declared.count} images, " if declared.count else ""
        background = "label 0 is the background" if declared.background else "no background"
        typer.echo(f"{name}: {images}{declared.labels} labels, {background}")
        typer.echo(f"{tree(declared) if root is None else counted_tree(declared, root)}\n")
    for world in (each.world for each in WORLDS):
        typer.echo(f"{world}: the tree of voc21, written by python -m fseg.{world}.make\n")
    typer.echo("folder: any images with labels of the same names; classes.txt names label n in line n, a first line `background` label 0")
    if root is not None and (root / "classes.txt").is_file():
        typer.echo(counted_tree(data_set("folder", root), root))
    else:
        typer.echo("  images/*\n  labels/*.png\n  classes.txt")


def table_command(
    number: Annotated[int, typer.Argument(min=1, max=max(ABLATIONS), help="The table of the paper, 1 to 6.")],
    results: Annotated[list[Path] | None, typer.Option(help="A folder with finished runs in it, once or several times.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print an ablation, 2 to 6, in Markdown.")] = False,
) -> None:
    """Print a table of the paper. Table 1 gets a row for each recipe in --results, and the two stronger methods that the paper leaves out."""
    from fseg.evaluation.report.results import read_results
    from fseg.evaluation.report.tables import ablation_markdown, ablation_table, comparison

    measured = read_results(results or [])
    if number not in ABLATIONS:
        if markdown:
            raise InvalidOption("--markdown is for the ablations, Tables 2 to 6.")
        typer.echo(comparison(measured))
        return
    fitting = [one for one in measured if any(f"/table-{number}/" in str(row["recipe"]["name"]) for row in one.get("rows", {}).values())]
    render = ablation_markdown if markdown else ablation_table
    typer.echo("\n\n".join(render(number, one) for one in fitting) if fitting else render(number))
