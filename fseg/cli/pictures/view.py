"""`fseg view`: the page of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.cli.options import (
    AssumeOption,
    BackboneOption,
    ClassesFileOption,
    ClassesOption,
    DeviceOption,
    DtypeOption,
    ImportOption,
    RecipeOption,
    SamOption,
    classes_of,
)


def view_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    out: Annotated[Path, typer.Option(help="The page: one HTML file.")] = Path("page.html"),
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it exists.")] = False,
) -> None:
    """Write a page to look at in a browser: each step from answer to mask, with sliders for alpha and beta.

    Example: fseg view street.jpg --classes "car,traffic light" --recipe fseg-llava-1.5-vicuna-7b --device cuda --out street.html
    """
    from fseg.cli.folders import refuse_existing, refuse_inputs
    from fseg.cli.models import open_segmenter
    from probe.disk.files import check_writable

    names = classes_of(classes, classes_file)
    refuse_inputs([out], [image])
    refuse_existing(out, "--out", overwrite=overwrite)
    check_writable(out.absolute().parent)
    segmenter = open_segmenter(recipe, imports, assume_present=assume_present, backbone=backbone, sam=sam, device=device, dtype=dtype)
    result = segmenter(image, names)
    page = result.page(out, overwrite=overwrite)
    typer.echo(f"{page}  {page.stat().st_size / 1e6:.2f} MB, {', '.join(result.present) or 'none of the classes'}")
