"""`fseg segment`: image files to label maps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    output_path,
)
from probe.disk import strict_json
from probe.disk.files import check_writable
from probe.errors import ProbeError

if TYPE_CHECKING:
    from fseg.cli.exports import Exports
    from fseg.result import Failure, Result

MOST_REASONS, MOST_NAMES = 10, 3
"""How many reasons of failures are listed at the end, and how many images with each."""


def segment_command(
    images: Annotated[
        list[Path],
        typer.Argument(help='Image files, folders of them, patterns such as "photos/*.jpg", or - for standard input.', metavar="IMAGE..."),
    ],
    out: Annotated[Path, typer.Option(help="A folder; each image gets its own folder in it.", parser=output_path, metavar="PATH")],
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    recipe: RecipeOption = "glyphs",
    imports: ImportOption = None,
    backbone: BackboneOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    assume_present: AssumeOption = False,
    coco: Annotated[Path | None, typer.Option(help="A COCO file of the whole masks of all images.", metavar="FILE")] = None,
    polygons: Annotated[bool, typer.Option("--polygons", help="Write polygons.geojson beside each label map.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line for each image.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results, and the file of --coco.")] = False,
) -> None:
    """Segment images: labels.png, classes.json, masks.npz, overlay.png, result.json, evidence.safetensors and recipe.toml for each.

    In labels.png 0 is background and i + 1 the i-th class given; masks.npz has whole masks, also where they overlap. A folder with files of
    others is never written to.

    Example: fseg segment street.jpg --classes "car,traffic light" --recipe fseg-llava-1.5-vicuna-7b --sam sam_vit_h.pth --device cuda --out out
    """
    from tqdm import tqdm

    from fseg.cli.exports import Exports
    from fseg.cli.folders import result_folders
    from fseg.cli.inputs import images_of
    from fseg.cli.models import open_segmenter
    from fseg.result import Failure

    names = classes_of(classes, classes_file)
    given = images_of(images)
    folders = result_folders(out, list(given), overwrite=overwrite)
    exports = Exports(tuple(names), coco, polygons=polygons)
    exports.check(list(given), folders, overwrite=overwrite)
    check_writable(out)
    segmenter = open_segmenter(recipe, imports, assume_present=assume_present, backbone=backbone, sam=sam, device=device, dtype=dtype)
    failures = []
    results = segmenter.map(given.values(), names)
    for image, folder, result in zip(given, folders, tqdm(results, total=len(given), unit="image", disable=None), strict=True):
        outcome = _saved(result, image, folder, exports)
        if isinstance(outcome, Failure):
            failures.append(outcome)
            tqdm.write(f"failed  {outcome}", file=sys.stderr)
        if as_json:
            tqdm.write(_json_line(outcome, image, folder), file=sys.stdout)
        elif not isinstance(outcome, Failure):
            tqdm.write(_line(outcome, folder), file=sys.stdout)
    exports.finish()
    if failures:
        typer.echo("\n".join(_summary(failures, len(given))), err=True)
        raise typer.Exit(1)


def _saved(result: Result | Failure, image: Path, folder: Path, exports: Exports) -> Result | Failure:
    """The result, saved and exported; or the reason why it could not be: the other images go on."""
    from fseg.result import Failure

    if isinstance(result, Failure):
        return Failure(image, result.error)
    try:
        result.save(folder)
        exports.add(result, image, folder)
    except (ProbeError, OSError) as error:
        return Failure(image, error)
    return result


def _line(result: Result, folder: Path) -> str:
    """The classes that are present: pixels in the label map, SAM's score, flags."""
    found = []
    for name in result.present:
        e = result.evidence[name]
        score = [] if e.score is None else [f"score {e.score:.2f}"]
        found.append(f"{name} ({', '.join([f'{result.area(name)} px', *score, *e.flags])})")
    return f"{folder}: {', '.join(found) or 'none of the classes'}"


def _json_line(outcome: Result | Failure, image: Path, folder: Path) -> str:
    from fseg.result import Failure

    if isinstance(outcome, Failure):
        described: dict[str, object] = {"error": f"{type(outcome.error).__name__}: {outcome.error}"}
    else:
        whole = outcome.to_dict()
        described = {"folder": str(folder), "image_size": whole["image_size"], "classes": whole["classes"]}
    return strict_json.dump({"image": str(image), **described}).decode()


def _summary(failures: Sequence[Failure], images: int) -> list[str]:
    """How many images failed, and which ones for each reason."""
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
