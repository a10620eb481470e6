"""`fseg`: segment pictures, see the embedded model at work, draw the paper's figures."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from fseg.cli.evaluate import ablate_command, datasets_command, eval_command, merge_command, table_command
from fseg.cli.folders import refuse_inputs, result_folders
from fseg.cli.options import BackboneOption, DeviceOption, DtypeOption, ImportOption, RecipeOption, SamOption, place
from fseg.drawing.figures import layers_figure, steps_figure
from fseg.errors import InvalidClasses, InvalidRecipe, OutputError
from fseg.files import check_writable, write_atomically
from fseg.imports import import_named
from fseg.pipeline import Segmenter
from fseg.recipe import Recipe, get_recipe, recipes
from fseg.result import Failure, Result
from fseg.vocabulary.classes import check_classes, read_classes
from probe.console import Commands, VersionOption, run
from probe.errors import ProbeError


class FsegCommands(Commands):
    """The commands of `fseg`."""

    resumable = frozenset({"eval", "ablate"})


app = typer.Typer(
    cls=FsegCommands,
    no_args_is_help=True,
    help="FSeg-LLaVA: ask a multimodal language model which classes are in a picture, and segment them. Start with: fseg demo",
)

MOST_CLASSES = 255
"""A palette PNG has 256 values, and 0 is the background."""

FORMATS = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "pdf", "svg")
"""What a figure can be written as, by the suffix of its file."""

MOST_REASONS, MOST_NAMES = 10, 3
"""How many reasons of failures are listed at the end, and how many pictures with each."""

AssumeOption = Annotated[bool, typer.Option("--assume-present", help="Do not ask whether a class is there: have the model describe each.")]


class Figure(StrEnum):
    """The paper's figures that can be drawn of one picture and one class."""

    STEPS = "3"
    LAYERS = "5"


@app.callback()
def begin(version: VersionOption = False) -> None:
    # Names of files need not be UTF-8, and a model answers in any writing: neither may stop what prints them.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the pictures go.", parser=place, metavar="PATH")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the first scene; the others follow.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 4,
) -> None:
    """Run the whole method on scenes that the embedded model has never seen.

    Asks the embedded LLaVA about all of its classes, traces its answers, prompts the embedded SAM, and compares with the truth. Prints a
    table and writes a picture for each scene. Needs no download.
    """
    from fseg.cli.demo import run_demo

    check_writable(out)
    run_demo(out, range(seed, seed + scenes))


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Picture files.", metavar="IMAGE...")],
    out: Annotated[Path, typer.Option(help="A folder; each picture gets one of its own in it.", parser=place, metavar="PATH")],
    classes: Annotated[str | None, typer.Option(help='Class names, separated by commas: "cat,potted plant".')] = None,
    classes_file: Annotated[Path | None, typer.Option(help="One class a line, synonyms behind it after commas.")] = None,
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
) -> None:
    """Segment pictures: labels.png, overlay.png, result.json, evidence.safetensors and recipe.toml for each.

    In labels.png 0 is background and i + 1 the i-th class given. Results of an earlier run are replaced; a folder with other files is not.

    Example: fseg segment street.jpg --classes "car,traffic light" --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --out out
    """
    names = _classes(classes, classes_file)
    folders = result_folders(out, images)
    check_writable(out)
    segmenter = Segmenter(_recipe(recipe, imports, assume_present), backbone=backbone, sam=sam, device=device, dtype=dtype)
    failures = []
    results = segmenter.map(images, names)
    for image, folder, result in zip(images, folders, tqdm(results, total=len(images), unit="image", disable=None), strict=True):
        outcome = _saved(result, image, folder)
        if isinstance(outcome, Failure):
            failures.append(outcome)
        tqdm.write(f"failed  {outcome}" if isinstance(outcome, Failure) else _line(outcome, folder), file=_stream(outcome))
    if failures:
        typer.echo("\n".join(_summary(failures, len(images))), err=True)
        raise typer.Exit(1)


@app.command()
def figure(
    number: Annotated[Figure, typer.Argument(help="3: the maps step by step. 5: the distance maps of all layers.")],
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    name: Annotated[str, typer.Option("--class", help="The class to look for.")],
    out: Annotated[
        Path, typer.Option(help=f"The file to write, as its suffix says: {', '.join(FORMATS)}.", parser=place, metavar="PATH")
    ] = Path("figure.png"),
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
) -> None:
    """Draw the paper's Figure 3 (from distance map to mask) or Figure 5 (the distance map at every layer) for one picture and one class."""
    kind = out.suffix[1:].casefold()
    if kind not in FORMATS:
        raise OutputError(f"--out {str(out)!r} does not say by its suffix what to write. A figure is one of {', '.join(FORMATS)}.")
    (name,) = check_classes([name])
    refuse_inputs([out], [image])
    check_writable(out.absolute().parent)
    segmenter = Segmenter(_recipe(recipe, imports, assume_present), backbone=backbone, sam=sam, device=device, dtype=dtype)
    pictures = segmenter.model.prepare(image)
    if number is Figure.LAYERS:
        drawn = layers_figure(pictures.images[0], segmenter.layer_distances(pictures, name), name)
    else:
        result = segmenter(pictures, [name])
        if not result.present:
            raise InvalidClasses(
                f"The model says that there is no {name} in {image}: {result.evidence[name].answer!r}. Try --assume-present."
            )
        drawn = steps_figure(result.image, list(result.evidence.values()), result.classes, result.masks)
    write_atomically(out, lambda file: drawn.savefig(file, format=kind, dpi=150))
    typer.echo(f"wrote {out}")


@app.command("recipes")
def list_recipes(
    ablations: Annotated[bool, typer.Option("--ablations", help="Also the rows of the paper's Tables 2 to 6.")] = False,
    imports: ImportOption = None,
) -> None:
    """List the registered recipes, with the model, layers and SAM of each."""
    import_named(imports or ())
    names = [name for name in recipes() if ablations or "/" not in name]
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:<{width}}  {_models(name)}")


app.command("datasets")(datasets_command)
app.command("eval")(eval_command)
app.command("merge")(merge_command)
app.command("ablate")(ablate_command)
app.command("table")(table_command)


def _classes(listed: str | None, file: Path | None) -> dict[str, tuple[str, ...]]:
    if (listed is None) == (file is None):
        raise InvalidClasses("Name the classes by --classes a,b or by --classes-file FILE, one of them.")
    names = read_classes(file) if file is not None else check_classes([name.strip() for name in (listed or "").split(",")])
    if len(names) > MOST_CLASSES:
        raise InvalidClasses(f"{len(names)} classes were given; labels.png has room for {MOST_CLASSES}. Segment in two goes.")
    return names


def _recipe(name: str, imports: Sequence[str] | None, assume_present: bool) -> Recipe:
    import_named(imports or ())
    recipe = get_recipe(name)
    return recipe.with_({"ask.presence": "assume"}) if assume_present else recipe


def _models(name: str) -> str:
    """The models, fusion and layers of a registered recipe, in a line; where two packages bring it, that."""
    try:
        made = get_recipe(name)
    except InvalidRecipe as error:
        return str(error)
    options = made.respond.options
    layers = f"layers {options['layers']}" if "layers" in options else ""
    return f"{made.backbone}  {made.respond.fusion} {layers}  SAM {made.sam.checkpoint}"


def _saved(result: Result | Failure, image: Path, folder: Path) -> Result | Failure:
    """The result, saved; or why it could not be: the other pictures go on."""
    if isinstance(result, Result):
        try:
            result.save(folder)
        except ProbeError as error:
            return Failure(image, error)
    return result


def _stream(outcome: Result | Failure) -> TextIO:
    return sys.stderr if isinstance(outcome, Failure) else sys.stdout


def _line(result: Result, folder: Path) -> str:
    found = ", ".join(result.present) or "none of the classes"
    return f"{folder}: {found}"


def _summary(failures: Sequence[Failure], images: int) -> list[str]:
    """How many failed, and for each reason which."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        name = str(failure.image)
        reason = f"{type(failure.error).__name__}: {failure.error}".replace(repr(name), "the file").replace(name, "the file")
        reasons.setdefault(reason, []).append(Path(name).name)
    lines = [f"{len(failures)} of {images} images failed:"]
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:MOST_REASONS]:
        shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
        lines.append(f"  {len(names)}  {reason}  ({shown})")
    return [*lines, f"  and {len(reasons) - MOST_REASONS} other reasons"] if len(reasons) > MOST_REASONS else lines


def main() -> None:
    """The console script."""
    disable_progress_bar()  # transformers' own, of loading weights: ours are of images
    run(app)
