"""The sticker world's models on scenes that they have never seen, by artists of their training: the held-out artist's drawings are not shipped.

The bounds are those of a sample: the figures of 200 scenes stand in the model card, and a change that loses the skill falls far below.
"""

from __future__ import annotations

import pytest
from PIL import Image
from safetensors import safe_open

import fseg
import probe
from fseg.stickers import CLASSES, llava_folder, qwen_folder, sam_file, scene
from fseg.stickers.evaluate import measure

BOTH = pytest.mark.parametrize("recipe", ["stickers", "stickers-dynamic"])
FOLDERS = (llava_folder, qwen_folder)


@BOTH
def test_the_recipe_finds_and_draws_what_a_scene_shows(recipe: str) -> None:
    shown = scene(3)
    result = fseg.Segmenter(recipe)(shown.image, [*shown.classes, "pizza", "guitar"])
    assert set(result.present) == set(shown.classes)


def test_the_weights_are_ordinary_checkpoints_in_bfloat16_and_small() -> None:
    for folder in FOLDERS:
        with safe_open(folder() / "model.safetensors", "pt") as weights:
            assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"BF16"}  # noqa: SIM118  not a mapping
        assert (folder() / "model.safetensors").stat().st_size < 8e6
    sheets = llava_folder().parents[1].glob("sheets/*")
    files = [*sheets, *(path for folder in FOLDERS for path in folder().iterdir()), sam_file()]
    assert sum(path.stat().st_size for path in files) < 20e6


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "truthful"), [("stickers", 0.5), ("stickers-dynamic", 0.4)])
def test_answers_maps_and_masks_keep_their_figures(recipe: str, truthful: float) -> None:
    found = measure(fseg.Segmenter(recipe), scenes=12, first_seed=1000)
    assert found["balanced"][0] >= 0.8
    assert found["truthful"][0] >= truthful
    assert found["sam_iou"][0] >= 0.75
    assert found["miou"]["D * M_A, both masks, points and box"][0] >= 0.5


@pytest.mark.slow
def test_their_grids_and_reads_verify() -> None:
    assert probe.verify(probe.load(llava_folder(), resize="stretch")).passed
    assert probe.verify(probe.load(qwen_folder())).passed


@BOTH
def test_a_picture_without_any_class_is_all_background(recipe: str) -> None:
    assert not fseg.Segmenter(recipe)(Image.new("RGB", (150, 120), (90, 120, 160)), CLASSES[:5]).labels.any()
