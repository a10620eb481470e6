"""Mean IoU by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fseg.evaluation.metric import Counts, bootstrap_difference, stack

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
    with pytest.raises(ValueError, match="have to be of one size"):
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
