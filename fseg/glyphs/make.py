"""Writes scenes as a data set in the layout of PASCAL VOC 2012."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from fseg.glyphs.regions import REGION_CLASSES, regions
from fseg.glyphs.scenes import CLASSES, Split, scene
from fseg.worlds.voc import Format, write_scenes

AnySplit = Split | Literal["regions"]

SPLITS = ("train", "held-out", "regions")


def write_voc(folder: Path, count: int, split: AnySplit = "held-out", seed: int = 0) -> Path:
    """Write `count` scenes under `folder`/VOCdevkit/VOC2012, with seeds from `seed` on, and classes.txt (line i + 1: label i + 1).

    Returns:
        The folder VOC2012.
    """
    shown = ((number, regions(number) if split == "regions" else scene(number, split)) for number in range(seed, seed + count))
    named = ((f"{split.replace('-', '_')}_{number:06d}", each.image, each.labels) for number, each in shown)
    return write_scenes(folder, named, REGION_CLASSES if split == "regions" else CLASSES)


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[Format, typer.Option(help="The layout.")] = Format.voc,
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
    split: Annotated[
        str,
        typer.Option(help="train or held-out: no random number or photograph is shared; or regions: textures."),
    ] = "held-out",
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
) -> None:
    """Write scenes of glyphs as a data set."""
    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is not a split: {', '.join(SPLITS)}", param_hint="--split")
    typer.echo(write_voc(folder, n, cast(AnySplit, split), seed))


if __name__ == "__main__":
    typer.run(main)
