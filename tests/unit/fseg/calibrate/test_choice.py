"""The choice: which rows go through SAM, and how sure the first place is."""

from __future__ import annotations

import numpy as np
import torch

import probe
from fseg.calibrate.choice import choose, finalists
from fseg.calibrate.observation import Observation
from fseg.calibrate.rows import Thresholds
from fseg.calibrate.scoring import Scores
from fseg.evidence import Evidence
from fseg.labels.metric import Counts
from fseg.stages.vgm import Refine

CAT = Evidence("cat", "cat", True, "yes", None, None, grid=probe.Grid.whole(2, 2, (4, 4)))


def scored() -> Scores:
    """Two layers over four cells of which the first shows a cat; layer 0 sees it better than layer 1."""
    scores = Scores(2, {"cat": 1}, Refine(mask="M^_f"), layers=2, pairs=Thresholds((0.5, 0.75, 0.9), (0.1, 0.3, 0.5, 2.0)).pairs())
    distances = torch.tensor([[[0.9, 0.4, 0.2, 0.0], [0.6, 0.55, 0.5, 0.2]]])
    truth = np.kron(np.array([[1, 0], [0, 0]]), np.ones((2, 2), dtype=np.int64))
    scores.add(Observation((CAT,), distances, torch.ones(1, 4, dtype=torch.bool), torch.eye(4)), truth)
    return scores


def test_rows_of_equal_masks_are_one_finalist_that_is_closest_to_the_paper() -> None:
    rows = [str(one.row) for one in finalists(scored(), 3)]
    # beta 0.5 is the smaller one for all three alphas; every threshold from 0.4 to 0.9 finds the same cell.
    assert rows[0] == "layers 0-0, alpha 0.75, beta 0.5"
    assert len({row.partition(",")[0] for row in rows}) > 1  # further bands have a place


def test_finalists_are_ordered_by_their_score_and_no_more_than_there_are() -> None:
    every = finalists(scored(), 50)
    values = [one.cell_iou for one in every]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert len(every) < 12


def counts(*hits: int) -> Counts:
    """One class of 10 true pixels in each image, so many of which are found."""
    found = np.array(hits)[:, None]
    return Counts(found, found, np.full_like(found, 10))


def test_the_winner_is_the_row_of_the_largest_miou_and_its_lead_is_paired_by_image() -> None:
    ranked, confidence = choose({"a": counts(4, 5, 6), "b": counts(6, 7, 8), "same": counts(6, 7, 8)})
    assert ranked == ["b", "same", "a"]
    assert confidence.wins == 1.0  # in every sample; a tie goes to the row that was better before SAM
    assert confidence.runner_up == "a"
    assert np.allclose(confidence.difference, 0.2)  # in each image, so that no sample has another one


def test_a_lead_that_one_image_makes_is_not_sure() -> None:
    _, confidence = choose({"a": counts(9, 5, 5, 5), "b": counts(5, 6, 6, 5)})
    assert 0.5 < confidence.wins < 0.8  # of the samples, 32 % lack the first image, and in others it is outweighed
    assert confidence.difference is not None
    assert confidence.difference[1] < 0 < confidence.difference[2]


def test_a_row_alone_has_nothing_to_lead() -> None:
    ranked, confidence = choose({"a": counts(4)})
    assert (ranked, confidence.wins, confidence.runner_up, confidence.difference) == (["a"], 1.0, None, None)
