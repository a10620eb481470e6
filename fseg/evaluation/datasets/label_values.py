"""The meaning of the pixel values in label files: for each data set, which label a value stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fseg.labels.values import IGNORED

ABSENT_FROM_COCO = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Of COCO's ids, counted from 0, those that were planned and never annotated."""

LAST_THING = 90
"""COCO's ids above this are stuff."""

STUFF_IDS = tuple(value for value in range(182) if value not in ABSENT_FROM_COCO)
"""The ids in a raw stuffthingmap, in the order of the 171 labels."""


@dataclass(frozen=True)
class LabelValues:
    """The pixel values of a set's truth.

    Attributes:
        labels: for each value that may occur, the label 0..C-1 that it stands for, or 255: ignored.
        values: for each label, and for 255, the value that stands for it in a file.
    """

    labels: Mapping[int, int]
    values: Mapping[int, int]


def as_they_are(count: int) -> LabelValues:
    """Labels 0..count - 1 stored as themselves, 255 ignored."""
    return _one_to_one({value: value for value in range(count)} | {IGNORED: IGNORED})


def shifted(count: int) -> LabelValues:
    """ADE20K: 0 is ignored, value v is the label v - 1."""
    return _one_to_one({0: IGNORED} | {label + 1: label for label in range(count)})


def stuff_ids() -> LabelValues:
    """COCO-Stuff from raw stuffthingmaps: the annotated ids of 0..181 become 0..170; 255 is ignored."""
    return _one_to_one({value: label for label, value in enumerate(STUFF_IDS)} | {IGNORED: IGNORED})


def object_ids() -> LabelValues:
    """COCO-Object from raw stuffthingmaps: a thing's label is its number + 1; all else is background."""
    things = {value: label + 1 for label, value in enumerate(STUFF_IDS) if value <= LAST_THING}
    background = {value: 0 for value in (*STUFF_IDS, IGNORED) if value not in things}
    return LabelValues(things | background, {label: value for value, label in things.items()} | {0: IGNORED, IGNORED: IGNORED})


def _one_to_one(labels: Mapping[int, int]) -> LabelValues:
    return LabelValues(labels, {label: value for value, label in labels.items()})
