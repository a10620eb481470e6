"""Sweeps: rows share what they can, and come out as they would alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import fseg
import probe
from fseg.errors import InvalidRecipe
from fseg.sweep import Sweep
from tests import zoo
from tests.planted import plant
from tests.unit.fseg.sams import tiny_sam

BASE = fseg.get_recipe("fseg-llava-1.5-vicuna-7b").with_({"respond.layers": (1, 3), "ask.max_new_tokens": 4, "ask.presence": "assume"})
ROWS = {
    "3": BASE,
    "early": BASE.with_({"respond.layers": (0, 1)}),
    "box": BASE.with_({"prompt.kind": "box"}),
    "D": BASE.with_({"respond.fusion": "D"}),
}


@pytest.fixture(scope="module")
def segmenter() -> fseg.Segmenter:
    hf, processor = plant(zoo.llava(), "plant")
    return fseg.Segmenter(BASE, backbone=probe.load(model=hf, processor=processor, resize="stretch", tiles=False), sam=tiny_sam())


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (40, 10, 60, 20))
    return image


def test_rows_come_out_as_they_would_alone(segmenter: fseg.Segmenter, scene: Image.Image) -> None:
    together = Sweep(segmenter, ROWS)(scene, ["pottedplant", "cat"])
    assert list(together) == list(ROWS)
    for name, recipe in ROWS.items():
        alone = fseg.Segmenter(recipe, backbone=segmenter.model, sam=segmenter.sam)(scene, ["pottedplant", "cat"])
        assert (together[name].labels == alone.labels).all()
        ours, theirs = together[name].evidence["pottedplant"], alone.evidence["pottedplant"]
        assert (ours.points, ours.box) == (theirs.points, theirs.box)
        assert ours.raw_distance is not None
        assert np.allclose(ours.raw_distance, theirs.raw_distance)
        assert together[name].recipe == recipe


def test_rows_that_ask_alike_share_one_pass_and_one_embedding(
    segmenter: fseg.Segmenter, scene: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, embeddings = [], []
    hook = segmenter.model.model.model.vision_tower.register_forward_pre_hook(lambda *_: passes.append(1))
    kind = type(segmenter.sam)
    embed = kind.embed
    monkeypatch.setattr(kind, "embed", lambda self, image: embeddings.append(1) or embed(self, image))
    Sweep(segmenter, ROWS)(scene, ["pottedplant"])
    hook.remove()
    assert len(passes) == 1  # for the answers and the activations of four rows
    assert len(embeddings) == 1


def test_a_row_that_does_not_fit_is_named(segmenter: fseg.Segmenter) -> None:
    with pytest.raises(InvalidRecipe, match='The row "deep" does not fit'):
        Sweep(segmenter, {"deep": BASE.with_({"respond.layers": (7, 13)})})
    with pytest.raises(InvalidRecipe, match="one or more recipes"):
        Sweep(segmenter, {})


def test_a_row_of_other_models_is_refused(segmenter: fseg.Segmenter) -> None:
    with pytest.raises(InvalidRecipe, match='The row "other" names the models'):
        Sweep(segmenter, {"other": BASE.with_({"sam.checkpoint": "facebook/sam-vit-base"})})
