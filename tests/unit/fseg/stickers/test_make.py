"""The data set of stickers in VOC's layout, and the reader that evaluates on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fseg.evaluation.datasets.declarations import data_set
from fseg.stickers import CLASSES, scene
from fseg.stickers.make import main, write_voc


def test_the_files_are_those_that_the_reader_declares(tmp_path: Path) -> None:
    root = write_voc(tmp_path, count=2, artist="noto", seed=7)
    declared = data_set("stickers", tmp_path)
    assert declared.labels == 31
    assert declared.classes == CLASSES
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert names == ["noto_held_out_000007", "noto_held_out_000008"]
    with Image.open(root / "SegmentationClass/noto_held_out_000008.png") as image:
        assert np.array_equal(np.asarray(image), scene(8, "noto").labels)
    assert tuple((root / "classes.txt").read_text().splitlines()) == CLASSES


@pytest.mark.parametrize(
    ("option", "message"), [(["--artist", "bob"], "there is no artist 'bob'; there are noto"), (["--split", "x"], "'train', 'held-out'")]
)
def test_what_is_not_there_is_said_before_anything_is_written(option: list[str], message: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, [str(tmp_path / "out"), *option], env={"COLUMNS": "400"})
    assert printed.exit_code == 2
    assert message in printed.output
    assert not (tmp_path / "out").exists()
