"""The readings of what the paper leaves open: each is a recipe, and how far it moves is measured on pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fseg
import fseg.glyphs
import probe
from fseg.cli.app import app
from fseg.doctor.diagnosis import diagnose, table
from fseg.doctor.moved import Moved, box_iou, farthest, moved
from fseg.doctor.readings import READINGS, readings_of
from tests.unit.fseg.fakes import evidence


@pytest.mark.parametrize("name", ["glyphs", "fseg-llava-1.5-vicuna-7b", "fseg-qwen2.5-vl-7b", "glyphs-lens"])
def test_every_reading_changes_one_key_of_a_recipe_that_has_it(name: str) -> None:
    recipe = fseg.get_recipe(name)
    found = readings_of(recipe)
    for reading, other in found.items():
        assert recipe.with_({reading.key: reading.value}) == other != recipe
    known = recipe.keys()
    left_out = [reading for reading in READINGS if reading not in found]
    for reading in left_out:  # its fusion has no such option, or the recipe reads the paper so already
        assert reading.key not in known or recipe.with_({reading.key: reading.value}) == recipe


def test_a_product_has_readings_of_attention_and_a_lens_has_none() -> None:
    keys = {name: {reading.key for reading in readings_of(fseg.get_recipe(name))} for name in ("glyphs", "glyphs-lens")}
    assert "respond.entropy" in keys["glyphs"]
    assert "respond.entropy" not in keys["glyphs-lens"]


def test_what_moved_is_counted_on_the_pixels_of_the_image() -> None:
    grid = probe.Grid.whole(2, 2, (2, 2))
    base = replace(
        evidence(raw_distance=torch.zeros(2, 2), refined=torch.tensor([[True, True], [False, False]]), points=((0.0, 0.0),)),
        grid=grid,
        box=(0.0, 0.0, 1.0, 0.0),
    )
    other = replace(
        base,
        raw_distance=torch.tensor([[0.0, -0.4], [0.0, 0.0]]),
        refined=torch.tensor([[True, False], [False, False]]),
        points=((0.0, 1.0),),
        box=(0.0, 0.0, 0.0, 0.0),
    )
    found = moved(base, other)
    assert found == Moved(True, pytest.approx(0.4), pytest.approx(0.1), 0.5, 1.0, 0.5)
    coarse = replace(base, grid=probe.Grid.whole(1, 1, (2, 2)), raw_distance=torch.ones(1, 1), refined=torch.ones(1, 1).bool())
    assert (moved(base, coarse).mean, moved(base, coarse).mask) == (1.0, 0.5)  # grids may differ


def test_a_filter_moves_the_distance_on_the_image_alone() -> None:
    # 0, 1/4, 3/4, 1 between the centres of two cells; 0, 0, 1, 1 without a filter.
    e = replace(
        evidence(raw_distance=torch.tensor([[0.0, 1.0]]), refined=torch.tensor([[False, True]])), grid=probe.Grid.whole(1, 2, (1, 4))
    )
    found = moved(e, e, ("bilinear", "nearest"))
    assert (found.largest, found.mean, found.mask) == (0.25, 0.125, 1.0)


def test_a_class_that_a_reading_loses_has_no_maps_to_compare() -> None:
    gone = replace(evidence(present=False), raw_distance=None)
    assert moved(evidence(raw_distance=torch.ones(2, 2)), gone) == Moved(False)


def test_distances_of_boxes_and_points() -> None:
    assert box_iou((0, 0, 9, 9), (20, 20, 29, 29)) == 0
    assert box_iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert farthest([(0, 0), (0, 2)], [(0, 0)]) == 2
    assert farthest([], [(0, 0)]) is None


@pytest.mark.slow
def test_the_embedded_model_follows_every_reading_or_says_why_not() -> None:
    segmenter, scene = fseg.Segmenter(), fseg.glyphs.scene(1)
    found = diagnose(segmenter, scene.image, scene.classes[0])
    assert {*found.moved, *found.refused} == set(readings_of(segmenter.recipe))
    by_name = {str(reading): one for reading, one in found.moved.items()}
    recipe = segmenter.recipe.with_({"respond.class_token": "before"})
    alone = fseg.Segmenter(recipe, backbone=segmenter.model, sam=segmenter.sam)(scene.image, [scene.classes[0]])
    assert by_name["respond.class_token=before"] == moved(found.evidence, alone.evidence[scene.classes[0]])
    assert by_name["respond.class_token=before"].largest is not None
    assert by_name["respond.class_token=before"].largest > 0.3
    assert by_name["prompt.snap=True"].largest == 0
    assert by_name["compose.resample=nearest"].largest is not None
    assert by_name["compose.resample=nearest"].largest > 0.1
    assert {str(reading) for reading in found.refused} == {"respond.view=tiles", "respond.view=both"}
    lines = list(table(found))
    assert len(lines) == 3 + len(readings_of(segmenter.recipe))
    assert any("does not apply" in line for line in lines)


def test_a_class_that_is_not_there_is_said_so() -> None:
    found = diagnose(fseg.Segmenter(), Image.fromarray(np.full((60, 60, 3), 200, dtype=np.uint8)), "cat")
    assert not found.evidence.present
    assert all(one.largest is None for one in found.moved.values())
    assert next(table(found)).startswith("cat: no, answer")


def test_the_command_names_a_missing_image() -> None:
    ended = CliRunner().invoke(app, ["doctor", "nothing.png", "--class", "cat"])
    assert ended.exit_code != 0
    assert "nothing.png" in str(ended.exception)
