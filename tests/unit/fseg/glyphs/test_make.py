"""The data set in VOC's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fseg.glyphs import CLASSES, scene
from fseg.glyphs.make import write_voc
from fseg.glyphs.regions import REGION_CLASSES, regions


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"), count=3, seed=7)


def test_the_list_names_one_picture_and_one_png_each(root: Path) -> None:
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert names == ["held_out_000007", "held_out_000008", "held_out_000009"]
    assert sorted(path.stem for path in (root / "JPEGImages").glob("*.jpg")) == names
    assert sorted(path.stem for path in (root / "SegmentationClass").glob("*.png")) == names


def test_the_png_reads_back_as_label_numbers(root: Path) -> None:
    with Image.open(root / "SegmentationClass/held_out_000008.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's colours
        assert np.array_equal(np.asarray(image), scene(8).labels)


def test_line_n_of_the_class_list_is_label_n(root: Path) -> None:
    assert tuple((root / "classes.txt").read_text().splitlines()) == CLASSES


def test_the_scenes_of_regions_have_their_own_classes_and_no_background(tmp_path: Path) -> None:
    root = write_voc(tmp_path, count=2, split="regions")
    assert tuple((root / "classes.txt").read_text().splitlines()) == REGION_CLASSES
    for seed in (0, 1):
        with Image.open(root / f"SegmentationClass/regions_00000{seed}.png") as image:
            labels = np.asarray(image)
        assert np.array_equal(labels, regions(seed).labels)
        assert labels.min() > 0
