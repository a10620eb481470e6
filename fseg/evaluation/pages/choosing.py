"""The images that a run did worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fseg.evaluation.run.records import Record


@dataclass(frozen=True)
class Worst:
    """An image, and what went wrong in it.

    Attributes:
        miou: over the classes that are predicted or true in it.
        missed, invented: names of the classes that are there and were denied, and the other way round.
        classes: all names that are predicted or true.
    """

    image: str
    miou: float
    missed: tuple[str, ...]
    invented: tuple[str, ...]
    classes: tuple[str, ...]


def worst_images(records: Iterable[Record], row: str, fill: str, names: Sequence[str], count: int) -> tuple[Worst, ...]:
    """At most so many images, the one with the lowest mIoU first. Failed ones, and ones without any class, are left out.

    Args:
        row: of the records.
        fill: whose counts, see `fseg.evaluation.measure.headline`.
        names: of the labels.
    """
    found = [_described(record, row, fill, names) for record in records if record.error is None]
    known = [one for one in found if not math.isnan(one.miou)]
    return tuple(sorted(known, key=lambda one: (one.miou, one.image))[:count])


def _described(record: Record, row: str, fill: str, names: Sequence[str]) -> Worst:
    there, said = set(record.ground_truth), set(record.rows[row].predicted)

    def named(labels: set[int]) -> tuple[str, ...]:
        return tuple(names[label] for label in sorted(labels))

    miou = record.rows[row].counts[fill].mean_iou()
    return Worst(record.image, float(miou), named(there - said), named(said - there), named(there | said))
