"""Scores of all rows before SAM: the IoU of the refined masks M_r with the cells that show their class.

A cell counts as the class's where a tenth of its pixels are: SAM needs prompts that reach to the edge of a thing. Counted by pixels, the masks
that win leave out the cells at the edges, and SAM's masks are worse for it (docs/recipes.md has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fseg.calibrate.observation import Observation
from fseg.calibrate.rows import band_distance, bands, refined_masks
from fseg.evaluation.measure import Labels
from fseg.evidence import Evidence
from fseg.labels.metric import Counts
from fseg.labels.values import IGNORED
from fseg.stages.vgm import Refine

SHOWN = 0.1
"""The share of a cell's pixels from which on it shows a class. Of a class that is smaller everywhere, the cell with most of it does."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A ground truth on the grid.

    Attributes:
        shown: which labels each cell shows.
        counted: the cells with a pixel that is not ignored.
    """

    shown: Bool[Tensor, "label cell"]
    counted: Bool[Tensor, " cell"]

    @classmethod
    def of(cls, truth: Labels, labels: int, e: Evidence) -> Cells:
        """Bring a ground truth onto the grid; ignored pixels, and pixels in no cell, are left out.

        Args:
            labels: how many there are, background included.
            e: gives the grid.
        """
        rows, cols = e.grid.shape
        row, col = (
            _cell_of_pixels(coordinates, count) for coordinates, count in zip(e.grid.pixel_coordinates(), e.grid.shape, strict=True)
        )
        counted = (truth != IGNORED) & (row >= 0)[:, None] & (col >= 0)
        index = truth * (rows * cols) + row[:, None] * cols + col
        pixels = np.bincount(index[counted], minlength=labels * rows * cols).reshape(labels, -1)
        total = pixels.sum(0)
        shown = (pixels > 0) & ((pixels >= SHOWN * total) | (pixels == pixels.max(1, keepdims=True)))
        return cls(torch.from_numpy(shown), torch.from_numpy(total > 0))


def _cell_of_pixels(coordinates: Float[np.ndarray, " pixel"], cells: int) -> Int64[np.ndarray, " pixel"]:
    """For each pixel along one side the cell that its centre lies in; -1: none.

    Args:
        coordinates: one of `Grid.pixel_coordinates`.
    """
    cell = np.clip(np.floor(np.nan_to_num(coordinates) + 0.5), 0, cells - 1).astype(np.int64)
    return np.where(np.isnan(coordinates), -1, cell)


class Scores:
    """The counts of cells of all rows, summed over the images that were added.

    Args:
        labels: of the data set, background included.
        classes: the label of each class.
        refine: the refine stage; its alpha and beta do not matter.
        layers: how many `hidden_states` there are.
        pairs: of alpha and beta.

    Attributes:
        bands: the bands of layers, in the order of the leading axis of all figures.
        pairs: as given, in the order of the second axis.
    """

    def __init__(self, labels: int, classes: Mapping[str, int], refine: Refine, layers: int, pairs: Sequence[tuple[float, float]]) -> None:
        self.bands, self.pairs = bands(layers), list(pairs)
        self._classes, self._refine = dict(classes), refine
        shape = (len(self.bands), len(self.pairs), labels)
        self._intersection, self._prediction = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        self._truth = torch.zeros(labels, dtype=torch.int64)

    def add(self, observation: Observation, truth: Labels) -> None:
        """Count the masks of all rows on one image."""
        cells = Cells.of(truth, len(self._truth), observation.evidence[0])
        named = torch.tensor(list(self._classes.values()))
        self._truth[named] += cells.shown[named].sum(1)
        if not observation.present:
            return
        gram = observation.gram()
        for number, band in enumerate(self.bands):
            distance, chosen = best_names(observation, band_distance(observation.distances, band))
            masks = refined_masks(distance, observation.attention[chosen], gram, self.pairs, self._refine)
            labels = torch.tensor([self._classes[observation.present[index].name] for index in chosen])
            inside = masks & cells.counted
            self._intersection[number][:, labels] += (inside & cells.shown[labels]).sum(-1)
            self._prediction[number][:, labels] += inside.sum(-1)

    def cell_iou(self) -> Float[np.ndarray, "band pair"]:
        """The mean over classes of each row's IoU, 0..1."""
        return np.asarray(np.nanmean(self.counts().iou(), axis=-1))

    def counts(self) -> Counts:
        """The counts of cells, with the axes band, pair and label."""
        intersection, prediction, truth = (values.numpy() for values in (self._intersection, self._prediction, self._truth))
        return Counts(intersection, prediction, np.broadcast_to(truth, intersection.shape))


def best_names(observation: Observation, distance: Float[Tensor, "name cell"]) -> tuple[Float[Tensor, "class cell"], list[int]]:
    """Of several names of one class the one with the largest peak of D~: its D~, and its index among the names that got a yes."""
    peaks = distance.amax(-1).tolist()
    best: dict[str, int] = {}
    for index, e in enumerate(observation.present):
        if e.name not in best or peaks[index] > peaks[best[e.name]]:
            best[e.name] = index
    chosen = list(best.values())
    return distance[chosen], chosen
