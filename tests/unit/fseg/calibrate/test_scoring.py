"""Scores before SAM: which cells show a class, and how a row is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import probe
from fseg.calibrate.observation import Observation
from fseg.calibrate.scoring import Cells, Scores, best_names
from fseg.evidence import Evidence
from fseg.stages.vgm import Refine

CAT = Evidence("cat", "cat", True, "yes", None, None, grid=probe.Grid.whole(1, 2, (4, 10)))
"""Two cells of 4 x 5 pixels."""


def truth(left: int, right: int) -> np.ndarray:
    """The first so many pixels of each cell show the cat, label 1."""
    halves = [np.where(np.arange(20).reshape(4, 5) < count, 1, 0) for count in (left, right)]
    return np.concatenate(halves, axis=1).astype(np.int64)


def observed(*distances: list[float]) -> Observation:
    """A cat whose D~ at each layer is given, with features that leave every guide as it is."""
    return Observation((CAT,), torch.tensor([distances]), torch.ones(1, 2, dtype=torch.bool), torch.eye(2))


def test_a_cell_shows_a_class_from_a_tenth_of_its_pixels_on() -> None:
    assert Cells.of(truth(1, 2), 2, CAT).shown[1].tolist() == [False, True]
    assert Cells.of(truth(2, 20), 2, CAT).shown.tolist() == [[True, False], [True, True]]


def test_of_a_class_that_is_small_everywhere_the_cell_with_most_of_it_shows_it() -> None:
    assert Cells.of(truth(1, 0), 2, CAT).shown[1].tolist() == [True, False]


def test_ignored_pixels_and_pixels_in_no_cell_are_left_out() -> None:
    values = truth(0, 20)
    values[:, 5:9] = 255
    assert Cells.of(values, 2, CAT).shown[1].tolist() == [False, True]  # all that is left of the cell
    values[:, 5:] = 255
    assert Cells.of(values, 2, CAT).counted.tolist() == [True, False]
    view = replace(CAT, grid=probe.Grid.whole(1, 2, (4, 10), box=(5.0, 0.0, 10.0, 4.0)))
    assert Cells.of(truth(20, 0), 2, view).shown.tolist() == [[True, True], [False, False]]


def test_rows_are_counted_by_the_cells_that_show_their_class() -> None:
    scores = Scores(2, {"cat": 1}, Refine(mask="M^_f"), layers=2, pairs=[(0.5, 0.3), (0.5, 0.1)])
    scores.add(observed([0.8, 0.2], [0.4, 0.8]), truth(20, 0))
    # Layer 0 finds the left cell with beta 0.3, and both with 0.1; layers 0-1 and layer 1 find both.
    assert scores.cell_iou().tolist() == [[1.0, 0.5], [0.5, 0.5], [0.5, 0.5]]
    scores.add(observed([0.8, 0.2], [0.4, 0.8]), truth(20, 20))
    assert scores.cell_iou().tolist() == pytest.approx(np.array([[2 / 3, 3 / 4], [3 / 4, 3 / 4], [3 / 4, 3 / 4]]))


def test_a_class_that_the_model_denies_costs_every_row_alike() -> None:
    scores = Scores(2, {"cat": 1}, Refine(), layers=1, pairs=[(0.5, 0.3)])
    scores.add(observed([0.8, 0.2]), truth(20, 0))
    absent = replace(CAT, present=False)
    scores.add(Observation((absent,), torch.zeros(0, 0, 0), torch.zeros(0, 0, dtype=torch.bool), None), truth(20, 0))
    assert scores.cell_iou().tolist() == [[0.5]]


def test_of_several_names_the_one_with_the_largest_peak_gives_the_map() -> None:
    names = (CAT, replace(CAT, asked_as="kitten"), replace(CAT, name="dog"))
    distances = torch.tensor([[[0.1, 0.3]], [[0.5, 0.0]], [[0.2, 0.2]]])
    observation = Observation(names, distances, torch.ones(3, 2, dtype=torch.bool), torch.eye(2))
    distance, chosen = best_names(observation, distances[:, 0])
    assert chosen == [1, 2]
    assert distance.tolist() == [[0.5, 0.0], pytest.approx([0.2, 0.2])]
