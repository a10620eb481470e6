"""From a result and the truth to counts, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fseg
from fseg.errors import InvalidTruth
from fseg.evaluation.datasets.declarations import DataSet, TruthFiles
from fseg.evaluation.datasets.label_values import as_they_are
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import headline, measure, predictions
from fseg.evaluation.run.records import ClassRecord
from tests.unit.fseg.fakes import evidence

WITH = DataSet("with", "images", "labels", (TruthFiles(".png", as_they_are(3)),), 3, background=True)
WITHOUT = DataSet("without", "images", "labels", (TruthFiles(".png", as_they_are(2)),), 2, background=False)
SAMPLE = Sample("a", Path("a.jpg"), Path("a.png"), as_they_are(3))
RECIPE = fseg.get_recipe("fseg-llava-1.5-vicuna-7b")


def result(labels: list[list[int]], fill: str = "background") -> fseg.Result:
    """Cat on the left, dog on the right of 2 x 2 pixels; each has a mask of its upper pixel."""
    size = (2, 2)
    given = {
        "cat": evidence(size, size, "cat", raw_distance=torch.tensor([[0.9, 0.1], [0.8, 0.1]])),
        "dog": evidence(size, size, "dog", raw_distance=torch.tensor([[0.1, 0.9], [0.1, 0.7]]), score=0.5),
    }
    masks = {"cat": np.array([[True, False], [False, False]]), "dog": np.array([[False, True], [False, False]])}
    recipe = RECIPE.with_({"compose.fill": fill})
    return fseg.Result(Image.new("RGB", (2, 2)), np.array(labels), ("cat", "dog"), given, recipe, {}, masks)


def test_with_a_background_labels_are_taken_as_they_are() -> None:
    record = measure(WITH, SAMPLE, np.array([[1, 2], [0, 255]]), {"m": result([[1, 2], [0, 0]])})
    assert record.ground_truth == (1, 2)
    row = record.rows["m"]
    assert row.predicted == (1, 2)
    assert row.counts["background"].intersection.tolist() == [1, 1, 1]
    assert row.classes[1] == ClassRecord(2, "dog", "yes, it contains a dog.", margin=None, score=0.5, flags=())


@pytest.mark.parametrize(
    ("fill", "labels"), [("background", [[1, 2], [0, 0]]), ("none", [[1, 2], [255, 255]]), ("argmax_response", [[1, 2], [1, 2]])]
)
def test_without_a_background_both_fills_are_counted_whichever_the_recipe_names(fill: str, labels: list[list[int]]) -> None:
    found = predictions(WITHOUT, result(labels, fill))
    assert found["none"].tolist() == [[0, 1], [255, 255]]
    assert found["argmax_response"].tolist() == [[0, 1], [0, 1]]


def test_pixels_without_a_mask_are_filled_by_the_filter_of_the_recipe() -> None:
    # Four pixels on the two cells of the dog, 0 and 0.9; the cat responds with 0.8. The third: 0.675 of the dog between the cells, or 0.9.
    given = {
        "cat": evidence((1, 1), (1, 4), "cat", raw_distance=torch.tensor([[0.8]])),
        "dog": evidence((1, 2), (1, 4), "dog", raw_distance=torch.tensor([[0.0, 0.9]])),
    }
    found = {
        resample: predictions(
            WITHOUT,
            fseg.Result(
                Image.new("RGB", (4, 1)),
                np.array([[255] * 4]),
                ("cat", "dog"),
                given,
                RECIPE.with_({"compose.fill": "none", "compose.resample": resample}),
                {},
                {"cat": None, "dog": None},
            ),
        )["argmax_response"].tolist()
        for resample in ("bilinear", "nearest")
    }
    assert found == {"bilinear": [[0, 0, 0, 1]], "nearest": [[0, 0, 1, 1]]}


def test_a_pixel_without_a_class_costs_the_truth_its_recall() -> None:
    row = measure(WITHOUT, SAMPLE, np.array([[0, 1], [0, 1]]), {"m": result([[1, 2], [0, 0]])}).rows["m"]
    assert row.counts["none"].mean_iou() == 0.5
    assert row.counts["argmax_response"].mean_iou() == 1.0
    assert row.predicted == (0, 1)


def test_the_recipe_says_which_fill_its_figure_is_of() -> None:
    assert headline(WITH, RECIPE) == "background"
    assert headline(WITHOUT, RECIPE) == "none"
    assert headline(WITHOUT, RECIPE.with_({"compose.fill": "argmax_response"})) == "argmax_response"


def test_truth_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidTruth, match=r"have 2 x 3 pixels \(height x width\), their image 2 x 2"):
        measure(WITH, SAMPLE, np.zeros((2, 3), dtype=np.int64), {"m": result([[0, 0], [0, 0]])})
