"""Writes scenes of stickers as a data set in the layout of PASCAL VOC 2012."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from fseg.errors import InvalidOption
from fseg.stickers.drawings import CLASSES
from fseg.stickers.scenes import Split, scene
from fseg.worlds.voc import Format, write_scenes


def write_voc(folder: Path, count: int, artist: str | None = None, split: Split = "held-out", seed: int = 0) -> Path:
    """Write `count` scenes under `folder`/VOCdevkit/VOC2012, with seeds from `seed` on, and classes.txt (line i + 1: label i + 1).

    Returns:
        The folder VOC2012.
    """
    shown = ((number, scene(number, artist, split)) for number in range(seed, seed + count))
    prefix = "_".join([artist or "mixed", split]).replace("-", "_")
    return write_scenes(folder, ((f"{prefix}_{number:06d}", each.image, each.labels) for number, each in shown), CLASSES)


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[Format, typer.Option(help="The layout.")] = Format.voc,
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
    artist: Annotated[str | None, typer.Option(help="Who drew the stickers; a mixture of the shipped artists by default.")] = None,
    split: Annotated[str, typer.Option(help="train or held-out: they share neither random numbers nor photographs.")] = "held-out",
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
) -> None:
    """Write scenes of stickers as a data set."""
    try:
        scene(seed, artist, cast(Split, split), (112, 112))  # says what is wrong before anything is written
    except InvalidOption as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(write_voc(folder, n, artist, cast(Split, split), seed))


if __name__ == "__main__":
    typer.run(main)
