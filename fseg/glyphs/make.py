"""Writes scenes as a data set in the layout of PASCAL VOC 2012."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer
from tqdm import tqdm

from fseg.drawing.label_map import save_labels
from fseg.glyphs.scenes import CLASSES, Scene, Split, scene


class Format(StrEnum):
    """Layouts that can be written."""

    voc = "voc"


def write_scene(root: Path, name: str, example: Scene) -> None:
    """Write one image as JPEG and its labels as an indexed PNG."""
    example.image.save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
    save_labels(root / "SegmentationClass" / f"{name}.png", example.labels)


def write_voc(folder: Path, count: int, split: Split = "held-out", seed: int = 0) -> Path:
    """Write `count` scenes under `folder`/VOCdevkit/VOC2012, with seeds from `seed` on, and classes.txt (line i + 1: label i + 1).

    Returns:
        The folder VOC2012.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"{split.replace('-', '_')}_{number:06d}" for number in range(seed, seed + count)]
    for number, name in enumerate(tqdm(names, desc="scenes", unit="scene"), start=seed):
        write_scene(root, name, scene(number, split))
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[Format, typer.Option(help="The layout.")] = Format.voc,
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
    split: Annotated[str, typer.Option(help="train or held-out: they share neither random numbers nor photographs.")] = "held-out",
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
) -> None:
    """Write scenes of glyphs as a data set."""
    if split not in ("train", "held-out"):
        raise typer.BadParameter(f"{split!r} is not a split: train, held-out", param_hint="--split")
    typer.echo(write_voc(folder, n, cast(Split, split), seed))


if __name__ == "__main__":
    typer.run(main)
