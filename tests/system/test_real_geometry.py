"""The paper's four recipes from the shell, on folders of the real geometry: 336 pixels, 576 tokens, 32 and 40 layers.

What is planted in one cell of the picture has to come out there: in D~, in the point, in the box, in pixels of the original.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fseg.cli.app import app
from tests import zoo
from tests.families.daily import daily
from tests.planted import plant
from tests.unit.fseg.sams import tiny_sam

FOLDERS = {
    "fseg-llava-1.5-vicuna-7b": lambda: zoo.llava(336, 14, layers=32),
    "fseg-llava-1.6-mistral-7b": lambda: zoo.llava_next(336, 14, layers=32, text="mistral"),
    "fseg-llava-1.6-vicuna-7b": lambda: zoo.llava_next(336, 14, layers=32, text="llama"),
    "fseg-llava-1.6-vicuna-13b": lambda: zoo.llava_next(336, 14, layers=40, text="llama"),
}


def picture(path: Path, size: tuple[int, int], white: tuple[int, int, int, int]) -> Path:
    """A black picture of (width, height) with a white rectangle (x0, y0, x1, y1), the last pixels included."""
    image = Image.new("RGB", size, "black")
    image.paste("white", (white[0], white[1], white[2] + 1, white[3] + 1))
    image.save(path)
    return path


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tiny_sam().state_dict().items() if "pixel" not in name}, path)
    return path


@pytest.mark.parametrize("recipe", daily(FOLDERS, ("fseg-llava-1.5-vicuna-7b", "fseg-llava-1.6-mistral-7b")))
def test_a_planted_cell_comes_out_on_its_own_pixels(recipe: str, sam_file: Path, tmp_path: Path) -> None:
    # "pottedplant" is three pieces in this vocabulary, the last of which is "plant": that is the class token.
    folder = zoo.save(plant(FOLDERS[recipe](), "plant"), tmp_path / "model")
    # 24 x 24 cells: of 20 x 4 pixels in the wide picture, 4 x 20 in the tall one; in the tiny one a pixel is 2 x 2 cells.
    wide = picture(tmp_path / "wide.png", (480, 96), (400, 20, 419, 23))
    tall = picture(tmp_path / "tall.png", (96, 480), (20, 400, 23, 419))
    tiny = picture(tmp_path / "tiny.png", (12, 12), (3, 7, 3, 7))
    command = ["segment", str(wide), str(tall), str(tiny), "--classes", "pottedplant", "--recipe", recipe, "--assume-present"]
    command += ["--backbone", str(folder), "--sam", str(sam_file), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, command, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    expected = {
        "wide": ((480, 96), [(5, 20)], [409.5, 21.5], [400, 20, 419, 23]),
        "tall": ((96, 480), [(20, 5)], [21.5, 409.5], [20, 400, 23, 419]),
        "tiny": ((12, 12), [(14, 6), (14, 7), (15, 6), (15, 7)], [3, 7], [3, 7, 3, 7]),
    }
    for stem, (size, cells, point, box) in expected.items():
        maps = load_file(tmp_path / "out" / stem / "evidence.safetensors")
        distance = maps["0/raw_distance"]
        assert distance.shape == (24, 24)
        assert sorted(map(tuple, (distance > 0.5).nonzero().tolist())) == cells
        assert sorted(map(tuple, maps["0/refined"].nonzero().tolist())) == cells
        (found,) = json.loads((tmp_path / "out" / stem / "result.json").read_text())["classes"]
        assert found["points"] == [pytest.approx(point)]
        assert found["box"] == pytest.approx(box)
        assert found["flags"] == ["presence-assumed", "no-description", *["few-patches"] * (len(cells) == 1)]
        assert Image.open(tmp_path / "out" / stem / "labels.png").size == size


def test_the_base_view_has_no_newline_token(wide_image: Image.Image) -> None:
    import probe

    hf, processor = zoo.llava_next(336, 14, layers=2)
    base = probe.load(model=hf, processor=processor, resize="stretch", tiles=False).encode(wide_image, "Is there a cat?")
    assert len(base.tokens.span("image")) == 576
    tiled = probe.load(model=hf, processor=processor).encode(wide_image, "Is there a cat?")
    layout = tiled.tokens.layouts[0]
    assert layout is not None
    # 40 x 80 is shown on two tiles side by side: 576 base tokens, 24 rows of 48 cells, a newline token behind each.
    assert [len(grid.tokens) for grid in layout.grids] == [576, 24 * 48]
    assert len(layout.separators) == 24
    assert len(tiled.tokens.span("image")) == 576 + 24 * 48 + 24
