"""NumPy's archive of masks, `masks.npz`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO
from zipfile import ZIP_DEFLATED, ZipFile

from numpy.lib.format import write_array

from fseg.export.masks import ClassMask


def write_masks(file: IO[bytes], masks: Iterable[ClassMask]) -> None:
    """Write what `numpy.load` opens: for each class its mask, bool (height, width), under the class's name.

    `numpy.savez` takes names as keywords, so that no class could be called "file".
    """
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for one in masks:
            with archive.open(f"{one.name}.npy", "w", force_zip64=True) as member:
                write_array(member, one.mask, allow_pickle=False)
