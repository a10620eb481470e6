"""`fseg figure`: the paper's figures of one image and one class."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fseg.cli.options import (
    AssumeOption,
    BackboneOption,
    DeviceOption,
    DtypeOption,
    ImportOption,
    RecipeOption,
    SamOption,
    output_path,
)
from fseg.errors import InvalidClasses, OutputError
from probe.disk.files import check_writable, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fseg.pipeline import Segmenter

FORMATS = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "pdf", "svg")
"""The file formats of a figure, by the suffix of its file."""


class FigureNumber(StrEnum):
    """The paper's figures that can be drawn of one image and one class."""

    STEPS = "3"
    LAYERS = "5"


def figure_command(
    number: Annotated[FigureNumber, typer.Argument(help="3: the maps step by step. 5: the distance maps of all layers.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    name: Annotated[str, typer.Option("--class", help="The class to look for.")],
    out: Annotated[
        Path, typer.Option(help=f"The file to write; its suffix is the format: {', '.join(FORMATS)}.", parser=output_path, metavar="PATH")
    ] = Path("figure.png"),
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
) -> None:
    """Draw the paper's Figure 3 (from distance map to mask) or Figure 5 (the distance map at every layer) for one image and one class."""
    from fseg.cli.folders import refuse_inputs
    from fseg.cli.models import open_segmenter
    from fseg.vocabulary.classes import check_classes

    kind = out.suffix[1:].casefold()
    if kind not in FORMATS:
        raise OutputError(f"--out {str(out)!r} has no suffix that names a figure's format. A figure is one of {', '.join(FORMATS)}.")
    (name,) = check_classes([name])
    refuse_inputs([out], [image])
    check_writable(out.absolute().parent)
    segmenter = open_segmenter(recipe, imports, assume_present=assume_present, backbone=backbone, sam=sam, device=device, dtype=dtype)
    drawn = _layers(segmenter, image, name) if number is FigureNumber.LAYERS else _steps(segmenter, image, name)
    write_atomically(out, lambda file: drawn.savefig(file, format=kind, dpi=150))
    typer.echo(f"wrote {out}")


def _layers(segmenter: Segmenter, image: Path, name: str) -> Figure:
    from fseg.drawing.figures import layers_figure

    prepared = segmenter.model.prepare(image)
    return layers_figure(prepared.images[0], segmenter.layer_distances(prepared, name), name, segmenter.grid(prepared))


def _steps(segmenter: Segmenter, image: Path, name: str) -> Figure:
    from fseg.drawing.figures import steps_figure

    result = segmenter(image, [name])
    if not result.present:
        raise InvalidClasses(f"The model says that there is no {name} in {image}: {result.evidence[name].answer!r}. Try --assume-present.")
    return steps_figure(result.image, list(result.evidence.values()), result.classes, result.masks)
