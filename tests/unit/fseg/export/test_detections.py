"""supervision: it takes the detections, draws them, and reads our COCO file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import supervision

import fseg
from fseg.export.coco import dataset
from tests.unit.fseg.export.results import drawn, glyph_result, small


def test_a_class_is_a_detection() -> None:
    left, right = drawn("##..", "###."), drawn(".###", "...#")
    found = small(cat=left, cow=None, dog=right).to_detections()
    assert found.class_id.tolist() == [0, 2]
    assert found.data["class_name"].tolist() == ["cat", "dog"]
    assert found.confidence.tolist() == [0.75, 0.75]
    assert found.xyxy.tolist() == [[0, 0, 2, 1], [1, 0, 3, 1]]
    assert found.area.tolist() == [5, 4]
    np.testing.assert_array_equal(found.mask, [left, right])


def test_nothing_found_is_an_empty_set_of_detections_that_can_be_drawn() -> None:
    result = small(cat=None, dog=drawn("....", "...."))
    found = result.to_detections()
    assert len(found) == 0
    assert found.mask.shape == (0, 2, 4)
    pixels = np.array(result.image)
    np.testing.assert_array_equal(supervision.MaskAnnotator().annotate(pixels.copy(), found), pixels)


def test_a_mask_without_a_score_leaves_the_confidence_out() -> None:
    result = small(cat=drawn("#."))
    unscored = fseg.Evidence(**{**vars(result.evidence["cat"]), "score": None})
    found = fseg.Result(**{**vars(result), "evidence": {"cat": unscored}}).to_detections()
    assert found.confidence is None
    assert len(found) == 1


@pytest.mark.parametrize("seed", [1, 4])
def test_its_annotators_draw_the_masks(seed: int) -> None:
    result = glyph_result(seed)
    found, pixels = result.to_detections(), np.array(result.image)
    painted = supervision.MaskAnnotator(opacity=1.0).annotate(pixels.copy(), found)
    covered = np.any(list(result.masks.values()), axis=0)
    np.testing.assert_array_equal(painted[~covered], pixels[~covered])
    for mask, class_id in zip(found.mask, found.class_id, strict=True):
        colour = supervision.ColorPalette.DEFAULT.by_idx(int(class_id)).as_bgr()
        assert (painted[mask] == colour).all()
    labelled = supervision.LabelAnnotator().annotate(supervision.BoxAnnotator().annotate(pixels.copy(), found), found)
    assert (labelled != pixels).any()


def test_it_reads_the_masks_of_a_coco_file(tmp_path: Path) -> None:
    result = glyph_result(1)
    result.image.save(tmp_path / "scene.png")
    described = dataset(result.classes, {"scene.png": result.labels.shape}, result.to_coco(1))
    (tmp_path / "coco.json").write_text(json.dumps(described))
    read = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"), force_masks=True)
    ((_, _, found),) = read
    assert read.classes == list(result.classes)
    assert [read.classes[i] for i in found.class_id] == list(result.present)
    np.testing.assert_array_equal(found.mask, result.to_detections().mask)
