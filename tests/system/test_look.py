"""The README's program for a model of the reader's, run as it stands there, on the embedded one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import fseg.glyphs

README = Path(__file__).parents[2] / "README.md"


def program() -> str:
    section = README.read_text(encoding="utf-8").split("## Look inside another model")[1]
    return section.split("```python\n")[1].split("```")[0]


def painted(overlay: Image.Image, picture: Image.Image) -> np.ndarray:
    """The colour map's values, 0 to 1, that were laid over the grey picture with an opacity of 0.6."""
    grey = np.asarray(picture.convert("L"), dtype=float)[..., None]
    colours = (np.asarray(overlay, dtype=float) - 0.4 * grey) / 0.6
    palette = matplotlib.colormaps["magma"](np.linspace(0, 1, 64))[:, :3] * 255
    return np.abs(colours[:, :, None] - palette).sum(-1).argmin(-1) / 63


def test_the_overlay_peaks_on_the_object(tmp_path: Path) -> None:
    scene = fseg.glyphs.scene(1)
    word = scene.classes[0]
    (tmp_path / "look.py").write_text(program(), encoding="utf-8")
    scene.image.save(tmp_path / "scene.png")
    command = [sys.executable, "look.py", str(fseg.glyphs.llava_folder()), "scene.png", word]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert word in printed
    assert "layer  8: mean" in printed
    heat = painted(Image.open(tmp_path / "image.png"), scene.image)
    row, col = np.unravel_index(int(heat.argmax()), heat.shape)
    assert scene.labels[row, col] == fseg.glyphs.CLASSES.index(word) + 1


def test_the_program_has_at_most_thirty_lines() -> None:
    assert program().strip().count("\n") < 30
