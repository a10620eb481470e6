"""The choice among the rows: which of them go through SAM, which one wins, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen

from fseg.calibrate.rows import Row
from fseg.calibrate.scoring import Scores
from fseg.fusion_methods.distance import ALPHA, BETA
from fseg.labels.metric import Counts, bootstrap_difference, bootstrap_wins

FINALISTS = 12
"""How many rows go through SAM."""


@frozen
class Candidate:
    """A row with its mIoU of cells before SAM."""

    row: Row
    cell_iou: float


def finalists(scores: Scores, count: int = FINALISTS) -> list[Candidate]:
    """The rows that go through SAM, best first: half of them the best rows, the others the best of further bands.

    Rows of the same counts of cells, whose masks are the same, count as one; so neither half is one band with thresholds that hardly differ.
    """
    iou, counts = scores.cell_iou(), scores.counts()
    # Of rows with equal masks, of which there are many, the one closest to the paper's alpha and beta.
    paper = [(abs(alpha - ALPHA), abs(beta - BETA)) for alpha, beta in scores.pairs]
    order = sorted(np.ndindex(*iou.shape), key=lambda row: (-iou[row], *paper[row[1]]))
    taken: dict[bytes, tuple[int, int]] = {}
    for best_of_bands, wanted in ((False, count - count // 2), (True, count)):
        for band, pair in order:
            if len(taken) == wanted:
                break
            if best_of_bands and band in {other for other, _ in taken.values()}:
                continue
            key = counts.intersection[band, pair].tobytes() + counts.prediction[band, pair].tobytes()
            taken.setdefault(key, (band, pair))
    chosen = [row for row in order if row in taken.values()]
    return [Candidate(Row(scores.bands[band], *scores.pairs[pair]), float(iou[band, pair])) for band, pair in chosen]


@frozen
class Confidence:
    """How sure a choice is, from bootstrap samples of the images.

    Attributes:
        wins: the share of the samples in which the chosen row is the best finalist.
        runner_up: the finalist of the second largest mIoU whose pixel counts are others; None if there is none.
        difference: the mIoU of the chosen row minus that of the runner-up, and the ends of its 95 % interval, paired by image.
    """

    wins: float
    runner_up: str | None
    difference: tuple[float, float, float] | None


def choose(counts: Mapping[str, Counts]) -> tuple[list[str], Confidence]:
    """The finalists, best first, and how sure the first place is.

    Args:
        counts: of each finalist, best first before SAM, with a leading image axis. Ties keep that order.
    """
    ranked = sorted(counts, key=lambda name: -counts[name].total().mean_iou())
    wins = bootstrap_wins([counts[name] for name in ranked])[0]
    first = counts[ranked[0]]
    others = [name for name in ranked[1:] if not _same(counts[name], first)]
    if not others:
        return ranked, Confidence(wins, None, None)
    return ranked, Confidence(wins, others[0], bootstrap_difference(first, counts[others[0]]))


def _same(one: Counts, other: Counts) -> bool:
    return bool((one.intersection == other.intersection).all() and (one.prediction == other.prediction).all())


def best_of_bands(scores: Scores) -> dict[tuple[int, int], float]:
    """The mIoU of cells before SAM of each band with its best alpha and beta."""
    return {band: float(value) for band, value in zip(scores.bands, scores.cell_iou().max(1), strict=True)}


def best_of_layers(scores: Scores) -> Sequence[Candidate]:
    """The best row of each layer alone."""
    iou = scores.cell_iou()
    rows = []
    for number, band in enumerate(scores.bands):
        if band[0] == band[1]:
            pair = int(iou[number].argmax())
            rows.append(Candidate(Row(band, *scores.pairs[pair]), float(iou[number, pair])))
    return rows
