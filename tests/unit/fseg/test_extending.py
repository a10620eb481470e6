"""What CONTRIBUTING.md shows: a new fusion is one file, a new SAM is one class. Each runs in the embedded world."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fseg
from fseg.fusion_methods import registry
from fseg.glyphs import CLASSES, scene
from fseg.plugins import import_named
from fseg.sam.base import SamMask, SamPrompt

SHARP = '''"""Mean cosine over a band of layers, sharpened."""

import torch

import fseg
import probe


@fseg.fusion("sharp", reads=lambda layers, **_: [probe.Hidden(layers=fseg.band(layers), at=("image", "class"))])
def sharp(e, *, layers=(7, 13), power=2.0):
    image, word = e.hidden("image"), e.hidden("class")
    cosine = torch.cosine_similarity(image, word[:, -1:], dim=-1).mean(0)
    return e.fold(cosine.clamp(min=0) ** power)
'''


class FilledBoxes:
    """A SAM that fills the box of each prompt."""

    def embed(self, image: Image.Image) -> tuple[int, int]:
        return image.height, image.width

    def masks(self, embedding: tuple[int, int], prompts: Sequence[SamPrompt]) -> list[SamMask]:
        masks = []
        for prompt in prompts:
            assert prompt.box is not None
            x0, y0, x1, y1 = (round(side) for side in prompt.box)
            logits = torch.full(embedding, -1.0)
            logits[y0 : y1 + 1, x0 : x1 + 1] = 1.0
            masks.append(SamMask(logits, score=1.0))
        return masks


def overlap(result: fseg.Result, labels: np.ndarray, name: str) -> float:
    predicted, truth = result.masks[name], labels == CLASSES.index(name) + 1
    return float((predicted & truth).sum() / (predicted | truth).sum())


def test_a_new_fusion_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    assert len(SHARP.splitlines()) <= 15
    (tmp_path / "sharp.py").write_text(SHARP)
    import_named([str(tmp_path / "sharp.py")])
    recipe = fseg.get_recipe("glyphs").with_({"respond.fusion": "sharp", "respond.layers": (3, 5), "refine.beta": 0.04})
    shown = scene(1)
    result = fseg.Segmenter(recipe)(shown.image, shown.classes)
    assert result.present == shown.classes
    assert all(overlap(result, shown.labels, name) > 0.7 for name in shown.classes)


def test_every_file_of_the_folder_is_imported_with_the_registry() -> None:
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")} - {"__init__"}
    assert {f"{registry.__package__}.{name}" for name in files} <= set(sys.modules)


def test_a_new_sam_is_one_class() -> None:
    shown = scene(1)
    result = fseg.Segmenter(sam=FilledBoxes())(shown.image, shown.classes)
    assert result.models["sam"] == "FilledBoxes"
    for name in shown.classes:
        x0, y0, x1, y1 = result.evidence[name].box
        assert result.masks[name].sum() == (round(x1) - round(x0) + 1) * (round(y1) - round(y0) + 1)
        assert overlap(result, shown.labels, name) > 0.3
