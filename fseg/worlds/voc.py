"""Writes scenes as a data set in the layout of PASCAL VOC 2012."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image
from tqdm import tqdm

from fseg.drawing.label_map import save_labels


class Format(StrEnum):
    """Layouts that can be written."""

    voc = "voc"


def write_scenes(
    folder: Path, scenes: Iterable[tuple[str, Image.Image, Int64[np.ndarray, "height width"]]], classes: Sequence[str]
) -> Path:
    """Write scenes under `folder`/VOCdevkit/VOC2012, and classes.txt (line i + 1: label i + 1).

    Args:
        scenes: the name of each, its image, which becomes a JPEG, and its labels, which become an indexed PNG.

    Returns:
        The folder VOC2012.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = []
    for name, image, labels in tqdm(scenes, desc="scenes", unit="scene"):
        image.save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        save_labels(root / "SegmentationClass" / f"{name}.png", labels)
        names.append(name)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root
