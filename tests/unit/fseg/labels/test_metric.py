"""Mean IoU by hand."""

from __future__ import annotations

import probe  # isort: skip  # first: it makes torchvision importable beside a CPU-only torch

import numpy as np
import pytest
import torch
from torchmetrics import JaccardIndex
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from fseg.labels.metric import Counts, Presence, bootstrap_difference, bootstrap_interval, bootstrap_wins, stack

assert probe.load

TRUE = np.array([[0, 0, 1], [1, 1, 255]])
PREDICTED = np.array([[0, 1, 1], [1, 0, 2]])


def test_iou_is_intersection_over_union_of_each_class() -> None:
    counts = Counts.of(PREDICTED, TRUE, 4)
    # class 0: one pixel of three; class 1: two of four; class 2 and 3: the pixel predicted as 2 is ignored, so both are absent.
    assert counts.iou()[:2].tolist() == [1 / 3, 2 / 4]
    assert np.isnan(counts.iou()[2:]).all()
    assert counts.mean_iou() == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_class_that_is_only_predicted_counts_with_zero() -> None:
    assert Counts.of(np.array([[2, 0]]), np.array([[0, 0]]), 3).mean_iou() == pytest.approx((0.5 + 0.0) / 2)


def test_a_prediction_that_is_no_class_still_costs_the_truth_its_recall() -> None:
    assert Counts.of(np.array([[255, 0]]), np.array([[0, 0]]), 2).mean_iou() == 0.5


def test_counts_add_up_over_images_in_int64() -> None:
    one = Counts.of(PREDICTED, TRUE, 3)
    both = stack([one, one]).total()
    assert both.truth.dtype == np.int64
    assert both.mean_iou() == (one + one).mean_iou() == one.mean_iou()


def test_sizes_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="they need the same size"):
        Counts.of(PREDICTED.T, TRUE, 3)
    with pytest.raises(ValueError, match="label 1, the class list ends at 0"):
        Counts.of(PREDICTED, TRUE, 1)


def test_a_row_that_is_better_in_every_image_is_surely_better() -> None:
    good = stack([Counts.of(TRUE, TRUE, 3)] * 20)
    bad = stack([Counts.of(PREDICTED, TRUE, 3)] * 20)
    difference, lower, upper = bootstrap_difference(good, bad)
    assert difference == pytest.approx(1 - 5 / 12)
    assert lower == pytest.approx(difference)
    assert upper == pytest.approx(difference)
    assert bootstrap_difference(good, good)[1] == 0


def test_the_interval_of_a_mean_holds_it_and_is_a_point_where_all_images_agree() -> None:
    good, bad = Counts.of(TRUE, TRUE, 2), Counts.of(PREDICTED, TRUE, 2)
    assert bootstrap_interval(stack([bad, bad])) == pytest.approx((5 / 12,) * 3)
    mean, lower, upper = bootstrap_interval(stack([good, bad]))
    assert lower == pytest.approx(5 / 12)
    assert lower < mean < upper == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_iou_and_accuracy_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 40))
    # Classes are drawn from a part of the list, so that some are absent; a tenth of the truth is ignored.
    true, predicted = (rng.choice(rng.permutation(classes)[: classes // 2 + 1], (37, 53)) for _ in range(2))
    true = np.where(rng.random(true.shape) < 0.1, 255, true)
    counts = Counts.of(predicted, true, classes)
    given = torch.from_numpy(predicted), torch.from_numpy(true)

    # torchmetrics divides in float32: its value is compared to that precision, its whole numbers exactly, and their quotient to 1e-12.
    matrix = multiclass_confusion_matrix(*given, num_classes=classes, ignore_index=255).double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    assert counts.intersection.tolist() == matrix.diag().tolist()
    assert counts.mean_iou() == pytest.approx(float((matrix.diag() / union)[union > 0].mean()), abs=1e-12)
    oracle = JaccardIndex(task="multiclass", num_classes=classes, ignore_index=255)
    assert counts.mean_iou() == pytest.approx(float(oracle(*given)), abs=1e-6)
    accuracy = multiclass_accuracy(*given, num_classes=classes, ignore_index=255, average="micro")
    assert counts.pixel_accuracy() == pytest.approx(float(accuracy), abs=1e-6)
    there = matrix.sum(1) > 0
    assert counts.mean_accuracy() == pytest.approx(float((matrix.diag() / matrix.sum(1))[there].mean()), abs=1e-12)


def test_accuracies_by_hand() -> None:
    counts = Counts.of(PREDICTED, TRUE, 4)
    assert counts.pixel_accuracy() == 3 / 5
    assert counts.accuracy()[:2].tolist() == [1 / 2, 2 / 3]
    assert counts.mean_accuracy() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_without_a_counted_pixel_nothing_is_known() -> None:
    counts = Counts.of(np.array([[0]]), np.array([[255]]), 2)
    assert all(np.isnan(value) for value in (counts.mean_iou(), counts.pixel_accuracy(), counts.mean_accuracy()))


def test_presence_counts_each_class_once() -> None:
    presence = Presence.of(predicted=[1, 2, 3], ground_truth=[2, 3, 7], classes=20)
    assert presence == Presence(hits=2, misses=1, false_alarms=1, rejections=16)
    assert presence + presence == Presence(4, 2, 2, 32)
    assert (presence.precision, presence.recall) == (2 / 3, 2 / 3)


def test_precision_without_a_yes_is_not_known() -> None:
    assert np.isnan(Presence.of([], [1], 2).precision)
    assert np.isnan(Presence.of([1], [], 2).recall)


def test_a_row_that_is_better_on_every_image_wins_every_draw() -> None:
    good, bad = (stack([Counts.of(predicted, TRUE, 3)] * 5) for predicted in (TRUE, PREDICTED))
    assert bootstrap_wins([bad, good], draws=50) == [0.0, 1.0]


def test_a_tie_goes_to_the_row_that_comes_first() -> None:
    row = stack([Counts.of(PREDICTED, TRUE, 3)] * 3)
    assert bootstrap_wins([row, row], draws=50) == [1.0, 0.0]
