"""`masks.npz`: NumPy reads what a result has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.unit.fseg.export.results import drawn, glyph_result, small


def test_numpy_reads_whole_masks_that_overlap(tmp_path: Path) -> None:
    overlapping = {"cat/dog": drawn("##.", "##."), "file": drawn(".##", "..."), "キリン.npy": drawn("..#", "###")}
    result = small(**overlapping, cow=None, pig=drawn("...", "..."))
    with np.load(result.save(tmp_path) / "masks.npz") as read:
        assert read.files == list(overlapping)
        assert all((read[name] == mask).all() and read[name].dtype == bool for name, mask in overlapping.items())


def test_masks_of_a_scene_come_back_bit_for_bit_in_few_bytes(tmp_path: Path) -> None:
    result = glyph_result(1)
    path = result.save(tmp_path) / "masks.npz"
    with np.load(path) as read:
        assert {name: read[name].tobytes() for name in read.files} == {
            name: mask.tobytes() for name, mask in result.masks.items() if mask.any()
        }
    assert path.stat().st_size < result.labels.size / 10
