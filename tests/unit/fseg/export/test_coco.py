"""COCO: what pycocotools decodes is the mask, bit for bit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as codec
from pycocotools.coco import COCO

import fseg
from fseg.export.coco import dataset
from tests.unit.fseg.export.results import drawn, glyph_result, small

SCENES = range(20)


def opened(described: dict[str, object], folder: Path) -> COCO:
    (folder / "coco.json").write_text(json.dumps(described))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / "coco.json")


def test_a_file_of_twenty_scenes_gives_every_mask_back(tmp_path: Path) -> None:
    results = {f"scene-{seed}.png": glyph_result(seed) for seed in SCENES}
    described = dataset(
        fseg.glyphs.CLASSES,
        {name: result.labels.shape for name, result in results.items()},
        [one for image_id, result in enumerate(results.values(), 1) for one in result.to_coco(image_id)],
    )
    coco = opened(described, tmp_path)
    names = {number: category["name"] for number, category in coco.cats.items()}
    assert sum(len(result.present) for result in results.values()) == len(coco.anns) > 20
    for image_id, image in coco.imgs.items():
        result = results[image["file_name"]]
        found = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert [names[one["category_id"]] for one in found] == list(result.present)
        for one in found:
            mask = result.masks[names[one["category_id"]]]
            np.testing.assert_array_equal(coco.annToMask(one).astype(bool), mask)
            assert one["area"] == mask.sum() == codec.area(one["segmentation"])


def test_the_annotations_are_results_that_coco_loads(tmp_path: Path) -> None:
    result = glyph_result(1)
    coco = opened(dataset(result.classes, {"a.png": result.labels.shape}, result.to_coco(1)), tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.loadRes(result.to_coco(1))
    assert [one["score"] for one in loaded.dataset["annotations"]] == [0.75, 0.75]


def test_masks_that_overlap_are_whole() -> None:
    left, right = drawn("##..", "###."), drawn(".###", "...#")
    first, second = small(cat=left, dog=right).to_coco(3)
    np.testing.assert_array_equal(codec.decode(first["segmentation"]), left)  # the label map has two pixels fewer
    np.testing.assert_array_equal(codec.decode(second["segmentation"]), right)
    assert (first["bbox"], second["bbox"]) == ([0, 0, 3, 2], [1, 0, 3, 2])
    assert (first["area"], second["area"]) == (5, 4)


def test_a_class_without_a_pixel_has_no_annotation() -> None:
    result = small(cat=None, dog=drawn("...", "..."), cow=drawn("...", ".#."))
    (cow,) = result.to_coco(1)
    assert cow == {
        "image_id": 1,
        "category_id": 3,
        "segmentation": {"size": [2, 3], "counts": "312"},  # 3 outside, 1 inside, 2 outside, down the columns
        "bbox": [1, 1, 1, 1],
        "area": 1,
        "iscrowd": 0,
        "score": 0.75,
    }


@pytest.mark.parametrize("rows", [("##", "##"), ("#",), ("#.#.#",), ("#", ".", "#")], ids=["full", "one pixel", "a row", "a column"])
def test_masks_of_any_shape_come_back(rows: tuple[str, ...]) -> None:
    (one,) = small(cat=drawn(*rows)).to_coco(1)
    np.testing.assert_array_equal(codec.decode(one["segmentation"]), drawn(*rows))


@pytest.mark.parametrize("image_id", ["street.jpg", -1, True, 1.5])
def test_an_image_has_a_whole_number(image_id: object) -> None:
    with pytest.raises(fseg.FsegError, match="image_id="):
        small(cat=drawn("#")).to_coco(image_id)  # type: ignore[arg-type]
