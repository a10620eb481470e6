"""The figures of an evaluation, worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fseg.labels.metric import Counts, Presence
from fseg.stickers import CLASSES, describe, scene
from fseg.stickers.evaluate import figures, interval
from fseg.worlds.measuring import METHOD, Measured, rounded, true_prompt


def test_an_interval_holds_the_figure_and_is_the_same_each_time() -> None:
    values = np.array([0.0, 1.0, 1.0, 1.0])
    found = interval(lambda weights: weights @ values / weights.sum(1), 4)
    assert found[0] == 0.75
    assert found[1] < 0.75 < found[2]
    assert found == interval(lambda weights: weights @ values / weights.sum(1), 4)


def test_the_figures_of_two_scenes() -> None:
    shown = [scene(seed, size=(96, 96)) for seed in range(40)]
    first, second = next(each for each in shown if len(each.classes) == 2), next(each for each in shown if len(each.classes) == 3)
    name = first.classes[0]
    found = Measured(
        counts={METHOD: [Counts.of(each.labels, each.labels, len(CLASSES) + 1) for each in (first, second)]},
        presence=[Presence(1, 1, 0, 28), Presence(1, 2, 3, 24)],
        overlaps=[[0.5, 1.0], [0.9, 0.9, 0.9]],
        answers=[
            {name: f"yes, it contains a {name}. {describe(first, name)}"},
            {second.classes[0]: f"yes, it contains a {second.classes[0]}."},
        ],
    )
    result = figures([first, second], found)
    assert (result["scenes"], result["questions"]) == (2, 60)
    assert result["sensitivity"][0] == pytest.approx(2 / 5)
    assert result["specificity"][0] == pytest.approx(52 / 55)
    assert result["balanced"][0] == pytest.approx((2 / 5 + 52 / 55) / 2)
    assert result["sam_iou"][0] == pytest.approx(4.2 / 5)
    assert result["truthful"][0] == result["size"][0] == 0.5  # the second says nothing of it
    assert result["miou"][METHOD] == (1, 1, 1)


def test_figures_without_a_case_are_null_in_json() -> None:
    shown = scene(1, size=(96, 96))
    counts = Counts.of(np.zeros((96, 96), dtype=int), shown.labels, len(CLASSES) + 1)
    none = Measured({METHOD: [counts]}, [Presence(0, len(shown.classes), 0, 30 - len(shown.classes))], [[0.5] * len(shown.classes)], [{}])
    result = figures([shown], none)
    assert math.isnan(result["truthful"][0])
    assert json.loads(json.dumps(rounded(result)))["truthful"] == [None, None, None]


def test_a_true_prompt_is_the_centroid_and_the_box() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:4, 2:6] = True
    assert true_prompt(mask).points == ((3.5, 2.0),)
    assert true_prompt(mask).box == (2.0, 1.0, 5.0, 3.0)
