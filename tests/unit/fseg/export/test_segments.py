"""Hugging Face's form, and what every export says when its package is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import ImageSegmentationPipeline

import fseg
from probe.errors import PackageNeeded
from tests.unit.fseg.export.results import drawn, glyph_result, small


def test_segments_are_those_of_the_pipeline() -> None:
    result = glyph_result(1)
    found = torch.from_numpy(result.labels)
    infos = [{"id": int(i), "label_id": int(i) - 1, "score": 0.75} for i in np.unique(result.labels) if i]
    pipeline = SimpleNamespace(
        image_processor=SimpleNamespace(
            post_process_panoptic_segmentation=lambda *_, **__: [{"segmentation": found, "segments_info": infos}]
        ),
        model=SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(result.classes)))),
    )
    theirs = ImageSegmentationPipeline.postprocess(pipeline, {"target_size": None})
    assert result.segments() == theirs  # PIL images are equal if mode, size and pixels are


def test_a_segment_is_the_whole_mask_of_a_class() -> None:
    (cat, dog) = small(cat=drawn("##."), cow=None, dog=drawn(".##"), pig=drawn("...")).segments()
    assert (cat["label"], dog["label"]) == ("cat", "dog")
    assert (np.asarray(cat["mask"]).tolist(), np.asarray(dog["mask"]).tolist()) == ([[255, 255, 0]], [[0, 255, 255]])


@pytest.mark.parametrize(
    ("package", "export"),
    [
        ("pycocotools.mask", lambda result: result.to_coco(1)),
        ("shapely", fseg.Result.to_geojson),
        ("shapely.geometry", fseg.Result.to_geojson),
        ("supervision", fseg.Result.to_detections),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, export: Callable[[fseg.Result], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(PackageNeeded, match=rf"{name}, which is not installed: pip install 'fseg-llava\[export\]'\."):
        export(small(cat=drawn("#")))
