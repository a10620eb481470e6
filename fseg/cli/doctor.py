"""`fseg doctor`: how much each open reading of the paper moves one image's maps and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.cli.options import AssumeOption, BackboneOption, DeviceOption, DtypeOption, ImportOption, RecipeOption, SamOption


def doctor_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    name: Annotated[str, typer.Option("--class", help="The class to look for.")],
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
) -> None:
    """Print how much each reading of what the paper leaves open moves the maps, the prompts and the labels of one image.

    Look here first where figures differ from published ones: a reading that moves much is worth an evaluation, one that moves nothing is not.
    """
    from fseg.cli.models import open_segmenter
    from fseg.doctor.diagnosis import diagnose, table
    from fseg.vocabulary.classes import check_classes

    (name,) = check_classes([name])
    segmenter = open_segmenter(recipe, imports, assume_present=assume_present, backbone=backbone, sam=sam, device=device, dtype=dtype)
    for line in table(diagnose(segmenter, image, name)):
        typer.echo(line)
