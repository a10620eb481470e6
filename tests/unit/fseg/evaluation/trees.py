"""Small data sets in the real layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fseg.drawing.palette import palette

Rows = Sequence[Sequence[int]]


def picture(path: Path, size: tuple[int, int] = (2, 3)) -> Path:
    """A grey image of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), "grey").save(path)
    return path


def labels(path: Path, values: Rows, *, colours: bool = False) -> Path:
    """A file of labels, grey or with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(np.array(values, dtype=np.uint8))
    if colours:
        drawn = drawn.convert("P")
        drawn.putpalette(palette().tobytes())
    drawn.save(path)
    return path


def voc(
    root: Path, images: Mapping[str, Rows], year: str = "VOC2012", truths: str = "SegmentationClass", split: str = "Segmentation"
) -> Path:
    """PASCAL VOC: palette PNGs and a list of the split."""
    base = root / "VOCdevkit" / year
    for name, values in images.items():
        picture(base / "JPEGImages" / f"{name}.jpg", np.shape(values))  # type: ignore[arg-type]
        labels(base / truths / f"{name}.png", values, colours=True)
    listed = base / "ImageSets" / split / "val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{name}\n" for name in images))
    return root


def coco(root: Path, name: str, raw: Rows, **converted: Rows) -> Path:
    """COCO val2017: a raw stuffthingmap, and conversions beside it by the end of their names."""
    picture(root / "images/val2017" / f"{name}.jpg", np.shape(raw))  # type: ignore[arg-type]
    labels(root / "annotations/val2017" / f"{name}.png", raw)
    for ending, values in converted.items():
        labels(root / "annotations/val2017" / f"{name}_{ending}.png", values)
    return root


def ade(root: Path, name: str, values: Rows) -> Path:
    """ADE20K's validation folder."""
    picture(root / "ADEChallengeData2016/images/validation" / f"{name}.jpg", np.shape(values))  # type: ignore[arg-type]
    labels(root / "ADEChallengeData2016/annotations/validation" / f"{name}.png", values)
    return root


def folder(root: Path, classes: str, images: Mapping[str, Rows]) -> Path:
    """A folder of one's own."""
    for name, values in images.items():
        picture(root / "images" / f"{name}.png", np.shape(values))  # type: ignore[arg-type]
        labels(root / "labels" / f"{name}.png", values)
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    return root
