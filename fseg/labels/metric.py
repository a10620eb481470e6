"""The field's metric, from integer counts that add up over images, workers and machines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer
from numpy import ndarray as Array

from fseg.labels.values import IGNORED


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixel counts of each class: in both prediction and ground truth, and in each of them.

    >>> counts = Counts.of(np.array([[1, 1]]), np.array([[1, 0]]), classes=2)
    >>> counts.iou().tolist(), counts.mean_iou()
    ([0.0, 0.5], 0.25)

    Attributes:
        intersection, prediction, truth: int64, one entry a class; a leading axis holds several images.
    """

    intersection: Int64[Array, "*image classes"]
    prediction: Int64[Array, "*image classes"]
    truth: Int64[Array, "*image classes"]

    @classmethod
    def of(
        cls,
        predicted: Integer[Array, "..."],
        true: Integer[Array, "..."],
        classes: int,
        *,
        ignored: int | None = IGNORED,
    ) -> Counts:
        """Count one image.

        Args:
            predicted, true: (height, width) labels in 0..classes - 1.
            classes: how many labels there are, background included.
            ignored: pixels of this true label are not counted; None counts every pixel. A prediction outside 0..classes - 1 still costs the
                true class its recall.

        Raises:
            ValueError: the two differ in size, or the truth has a label beyond the classes.
        """
        if predicted.shape != true.shape:
            raise ValueError(f"The prediction is {predicted.shape} pixels, the truth {true.shape}: they need the same size.")
        counted = np.ones(true.shape, dtype=bool) if ignored is None else true != ignored
        truth, prediction = true[counted].astype(np.int64), predicted[counted].astype(np.int64)
        if truth.size and not (truth.min() >= 0 and truth.max() < classes):
            raise ValueError(
                f"The truth has the label {truth.max()}, the class list ends at {classes - 1}. Is it the list of this data set?"
            )
        known = prediction[(prediction >= 0) & (prediction < classes)]
        return cls(
            np.bincount(truth[truth == prediction], minlength=classes),
            np.bincount(known, minlength=classes),
            np.bincount(truth, minlength=classes),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.intersection + other.intersection, self.prediction + other.prediction, self.truth + other.truth)

    def total(self) -> Counts:
        """The sum over the leading axis."""
        return Counts(self.intersection.sum(0), self.prediction.sum(0), self.truth.sum(0))

    def iou(self) -> Float[Array, "*image classes"]:
        """Intersection over union of each class, 0..1; NaN for a class that is in neither."""
        union = self.prediction + self.truth - self.intersection
        return np.divide(self.intersection, union, out=np.full(union.shape, np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """The mean over the classes that are in the prediction or in the truth; NaN where there is none."""
        return _mean_of_known(self.iou())

    def pixel_accuracy(self) -> float:
        """The share of the counted pixels whose prediction is right, 0..1; NaN where none is counted."""
        pixels = int(self.truth.sum())
        return int(self.intersection.sum()) / pixels if pixels else float("nan")

    def accuracy(self) -> Float[Array, "*image classes"]:
        """The share of each class's true pixels that is found, 0..1; NaN for a class that is not in the truth."""
        return np.divide(self.intersection, self.truth, out=np.full(self.truth.shape, np.nan), where=self.truth > 0)

    def mean_accuracy(self) -> float:
        """The mean of `accuracy` over the classes that are in the truth; NaN where there is none."""
        return _mean_of_known(self.accuracy())


@dataclass(frozen=True)
class Presence:
    """Answers to "is this class in the image?", over classes and images.

    >>> Presence.of(predicted={1, 2}, ground_truth={2}, classes=20)
    Presence(hits=1, misses=0, false_alarms=1, rejections=18)

    Attributes:
        hits: predicted, and in the ground truth.
        misses: in the ground truth alone.
        false_alarms: predicted alone.
        rejections: neither.
    """

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    rejections: int = 0

    @classmethod
    def of(cls, predicted: Collection[int], ground_truth: Collection[int], classes: int) -> Presence:
        """Count one image.

        Args:
            predicted, ground_truth: the classes that got a yes, and those that the ground truth has a pixel of.
            classes: how many were asked about.
        """
        hits, either = len(set(predicted) & set(ground_truth)), len(set(predicted) | set(ground_truth))
        return cls(hits, len(set(ground_truth)) - hits, len(set(predicted)) - hits, classes - either)

    def __add__(self, other: Presence) -> Presence:
        return Presence(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        """The share of the predicted classes that is right; NaN without any."""
        predicted = self.hits + self.false_alarms
        return self.hits / predicted if predicted else float("nan")

    @property
    def recall(self) -> float:
        """The share of the ground truth's classes that is predicted; NaN without any."""
        present = self.hits + self.misses
        return self.hits / present if present else float("nan")


def _mean_of_known(values: Float[Array, " classes"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def stack(counts: list[Counts]) -> Counts:
    """The counts of several images, with a leading axis."""
    return Counts(*(np.stack([getattr(one, name) for one in counts]) for name in ("intersection", "prediction", "truth")))


DRAWS = 2000
"""Bootstrap samples of the images, with replacement."""


def bootstrap_difference(first: Counts, second: Counts, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """The mIoU of `first` minus that of `second`, with its interval, paired by image.

    Args:
        first, second: counts of the same images, with a leading image axis.
        draws: bootstrap samples of the images, with replacement.

    Returns:
        (difference, lower, upper): of all images, and the 95 % interval of the draws.
    """
    mine, theirs = _bootstrap([first, second], draws, seed)
    lower, upper = np.quantile(mine - theirs, (0.025, 0.975))
    return first.total().mean_iou() - second.total().mean_iou(), float(lower), float(upper)


def bootstrap_interval(counts: Counts, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """The mIoU of some images, and its interval.

    Args:
        counts: with a leading image axis.
        draws: bootstrap samples of the images, with replacement.

    Returns:
        (mIoU, lower, upper): of all images, and the 95 % interval of the draws.

    >>> bootstrap_interval(stack([Counts.of(np.array([[1, 0]]), np.array([[1, 0]]), classes=2)]))
    (1.0, 1.0, 1.0)
    """
    lower, upper = np.quantile(_bootstrap([counts], draws, seed)[0], (0.025, 0.975))
    return counts.total().mean_iou(), float(lower), float(upper)


def bootstrap_wins(rows: Sequence[Counts], *, draws: int = DRAWS, seed: int = 0) -> list[float]:
    """For each row the share of the draws in which its mIoU is the largest; a tie goes to the row that comes first.

    Args:
        rows: counts of the same images, each with a leading image axis.
        draws: bootstrap samples of the images, with replacement.

    >>> good, bad = (stack([Counts.of(np.array([[label]]), np.array([[1]]), classes=2)]) for label in (1, 0))
    >>> bootstrap_wins([bad, good])
    [0.0, 1.0]
    """
    winners = _bootstrap(rows, draws, seed).argmax(0)
    return [float(share) for share in np.bincount(winners, minlength=len(rows)) / draws]


def _bootstrap(rows: Sequence[Counts], draws: int, seed: int) -> Float[Array, "rows draws"]:
    """The mIoU of each row in the same draws."""
    images = len(rows[0].truth)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
    weighted = [Counts(weights @ counts.intersection, weights @ counts.prediction, weights @ counts.truth) for counts in rows]
    return np.stack([np.nanmean(counts.iou(), axis=1) for counts in weighted])
