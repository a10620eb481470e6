"""The colours of labels and of classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from zlib import crc32

import numpy as np
from jaxtyping import UInt8

from fseg.labels.values import BACKGROUND, IGNORED

DISTINCT = 63
"""Labels 1 to 63 have colours whose channels are multiples of 64; later ones are shades of these."""
VIVID = 128
"""The difference of the largest and the smallest channel from which a colour is told from an image drawn in grey."""


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC: RGB by label; 0 is black, 255 the pale yellow of ignored pixels. The array is read-only.

    The bits of a label go to red, green and blue in turn, and fill each channel from its highest bit down.

    >>> palette()[:3].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for channel in range(3):
        for rank, bit in enumerate(range(channel, 8, 3)):
            colours[:, channel] |= ((labels >> bit & 1) << (7 - rank)).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def class_palette(classes: Sequence[str]) -> UInt8[np.ndarray, "256 3"]:
    """RGB by label, 0 for the background and i + 1 for `classes[i]`: a class has its colour wherever it stands in the list.

    A name chooses one of the vivid ones among the first 63 colours of `palette`. Of names that choose the same one the first in the alphabet has
    it, and the others take the next free one, so a colour can depend on which other classes there are, never on their order.

    >>> bool((class_palette(["cat", "dog"])[[1, 2]] == class_palette(["dog", "cat"])[[2, 1]]).all())
    True
    """
    colours = palette().copy()
    order, vivid = _preferred()
    chosen: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(classes[: IGNORED - 1], key=str.casefold):
        place = crc32(name.casefold().encode()) % vivid
        free = next(label for label in (*order[place:vivid], *order[:place], *order[vivid:]) if label not in taken)
        chosen[name] = free
        taken.add(free)
    for i, name in enumerate(classes[: IGNORED - 1]):
        colours[i + 1] = palette()[chosen[name]]
    colours.flags.writeable = False
    return colours


@cache
def _preferred() -> tuple[tuple[int, ...], int]:
    """The labels of all colours that classes may have, those to choose first in front, and how many these are."""
    spread = np.ptp(palette().astype(int), axis=1)
    labels = range(BACKGROUND + 1, IGNORED)
    first = [label for label in labels if label <= DISTINCT and spread[label] >= VIVID]
    return (*first, *(label for label in labels if label not in first)), len(first)
