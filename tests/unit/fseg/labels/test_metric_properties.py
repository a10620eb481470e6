"""The metric, whatever the maps: counts that add up, values in 0..1, torchmetrics' figures."""

from __future__ import annotations

import probe  # isort: skip  # first: it makes torchvision importable beside a CPU-only torch

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from fseg.labels.metric import Counts, Presence, stack
from fseg.labels.values import IGNORED

assert probe.load

Maps = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@st.composite
def maps(draw: st.DrawFn, classes: int) -> Maps:
    """(predicted, true) of one size: labels from a part of the list, some of the truth ignored, some of the prediction no class."""
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    labels = st.integers(0, draw(st.integers(0, classes - 1))) | st.just(IGNORED)
    predicted, true = (draw(arrays(np.int64, size, elements=labels)) for _ in range(2))
    return predicted, true


@st.composite
def images(draw: st.DrawFn) -> tuple[int, list[Maps]]:
    """How many classes there are, and the maps of some images."""
    classes = draw(st.integers(1, 8))
    return classes, draw(st.lists(maps(classes), min_size=1, max_size=4))


def total(counts: list[Counts]) -> Counts:
    return reduce(add, counts)


@given(images(), st.randoms(use_true_random=False), st.data())
def test_counts_add_up_to_the_same_in_any_order_and_split(given_images: tuple[int, list[Maps]], random: Any, data: st.DataObject) -> None:
    classes, several = given_images
    counts = [Counts.of(predicted, true, classes) for predicted, true in several]
    whole = stack(counts).total()
    random.shuffle(counts)
    cut = data.draw(st.integers(0, len(counts)))
    parts = [total(part) for part in (counts[:cut], counts[cut:]) if part]
    # The pixels of all images, laid side by side as one, are counted as the images are.
    flat = [np.concatenate([one[side].ravel() for one in several]) for side in (0, 1)]
    for merged in (total(counts), total(parts), Counts.of(flat[0], flat[1], classes)):
        for name in ("intersection", "prediction", "truth"):
            assert getattr(merged, name).tolist() == getattr(whole, name).tolist()
        assert merged.mean_iou() == whole.mean_iou() or np.isnan(whole.mean_iou())


@given(images())
def test_every_figure_lies_between_0_for_nothing_and_1_for_the_truth(given_images: tuple[int, list[Maps]]) -> None:
    classes, several = given_images
    counts = total([Counts.of(predicted, true, classes) for predicted, true in several])
    assert (counts.intersection <= np.minimum(counts.prediction, counts.truth)).all()
    for value in (*counts.iou(), *counts.accuracy(), counts.mean_iou(), counts.mean_accuracy(), counts.pixel_accuracy()):
        assert np.isnan(value) or 0 <= value <= 1
    assert np.isnan(counts.iou()).tolist() == ((counts.prediction + counts.truth) == 0).tolist()
    for _, true in several:
        if (true != IGNORED).any():
            assert Counts.of(true, true, classes).mean_iou() == 1
            assert Counts.of(np.full_like(true, IGNORED), true, classes).mean_iou() == 0


@given(images())
def test_any_maps_have_the_iou_of_torchmetrics(given_images: tuple[int, list[Maps]]) -> None:
    classes, several = given_images
    predicted, true = (np.concatenate([one[side].ravel() for one in several]) for side in (0, 1))
    # torchmetrics knows no pixel without a class, and no list of one class: such a pixel gets a class of its own, behind the others.
    known = torch.from_numpy(np.where(predicted == IGNORED, classes, predicted)), torch.from_numpy(true)
    matrix = multiclass_confusion_matrix(*known, num_classes=classes + 1, ignore_index=IGNORED)
    counts = Counts.of(predicted, true, classes)
    assert counts.intersection.tolist() == matrix.diag()[:classes].tolist()
    assert counts.prediction.tolist() == matrix.sum(0)[:classes].tolist()
    assert counts.truth.tolist() == matrix.sum(1)[:classes].tolist()
    theirs = multiclass_jaccard_index(*known, num_classes=classes + 1, ignore_index=IGNORED, average=None)[:classes]
    seen = counts.prediction + counts.truth > 0
    assert counts.iou()[seen].tolist() == pytest.approx(theirs[torch.from_numpy(seen)].tolist(), abs=1e-6)


LABELS = st.sets(st.integers(0, 9))


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=6))
def test_every_class_of_every_image_is_one_of_four_answers(answers: list[tuple[set[int], set[int]]]) -> None:
    one_by_one = [Presence.of(predicted, ground_truth, 10) for predicted, ground_truth in answers]
    whole = sum(one_by_one, Presence())
    assert whole == sum(reversed(one_by_one), Presence())
    assert whole.hits + whole.misses + whole.false_alarms + whole.rejections == 10 * len(answers)
    assert whole.hits == sum(len(predicted & ground_truth) for predicted, ground_truth in answers)
    for value in (whole.precision, whole.recall):
        assert np.isnan(value) or 0 <= value <= 1
