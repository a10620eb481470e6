"""FSeg on families whose images are not one stretched square: what is planted in one cell comes out on that cell's pixels.

A projected token is replaced by the embedding of the class name's last piece, all others by its opposite, and the response is read at the
embeddings, so that the whole way from the tokens to the prompts is known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import fseg
import probe
from fseg.checkpoints import Backbone
from fseg.cli.app import app
from fseg.errors import InvalidRecipe
from fseg.evidence import Evidence
from fseg.stages.qap import Ask
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine
from probe import edit
from tests import processors, zoo
from tests.processors import real
from tests.processors.native import NATIVE
from tests.unit.fseg.sams import tiny_sam

FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": NATIVE["qwen2_5_vl"],
    "qwen3_vl": NATIVE["qwen3_vl"],
    "internvl": lambda: processors.build("internvl"),
    "gemma3": lambda: processors.build("gemma3"),
    "mistral3": lambda: processors.build("mistral3"),
    "llava_onevision": real.llava_onevision,
    "llava_next": real.llava_next,
    "smolvlm": lambda: processors.build("smolvlm"),
}
SIZES = {"wide": (96, 640), "tall": (640, 96), "tiny": (12, 30)}
WIDE_BOXES = {  # worked by hand: the cell in the middle row and the last column, in pixels of an image 640 wide and 96 high
    ("qwen2_5_vl", "base"): (612.17, 32, 639, 63),  # 3 x 23 tokens of 28 x 28 pixels, stretched
    ("qwen3_vl", "base"): (612.17, 32, 639, 63),
    ("gemma3", "base"): (320, 48, 639, 95),  # 2 x 2
    ("mistral3", "base"): (533.33, 0, 639, 95),  # 1 x 6
    ("internvl", "base"): (320, 48, 639, 95),
    ("internvl", "tiles"): (586.67, 48, 639, 95),  # 1 x 6 tiles of 2 x 2
    ("smolvlm", "base"): (320, 48, 639, 95),
    ("smolvlm", "tiles"): (533.33, 48, 639, 95),  # 1 x 3 tiles of 2 x 2
    ("llava_next", "base"): (606.67, 45.5, 629, 48),  # 27 x 27 over 378 of 384 pixels, each way
    ("llava_next", "tiles"): (623.33, 39.72, 634, 50.31),  # 1 x 2 tiles of 384 pixels for 640: a cell of 14 is 11.67 wide
    ("llava_onevision", "base"): (606.67, 45.5, 629, 48),
    ("llava_onevision", "tiles"): (623.33, 39.72, 634, 50.31),
}
RECIPE = fseg.Recipe(
    "planted",
    Backbone("none", prepare="processor"),
    ask=Ask(presence="assume", max_new_tokens=2),
    respond=Respond("D", {"layers": (0, 0), "beta": 0.5}),
    refine=Refine(mask="M^_f"),
    sam=Sam("none"),
)
CLASS = "cat"


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> probe.Probe:
    hf, processor = FAMILIES[request.param]()
    return probe.load(model=hf, processor=processor)


def picture(size: tuple[int, int]) -> Image.Image:
    height, width = size
    return Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 20).convert("RGB")


def planted(model: probe.Probe, image: Image.Image, token: int) -> edit.Edit:
    """The edit that gives one image token the embedding of the class name, and all others its opposite."""
    x = model.encode(image, "What is this?").with_answer(f"yes, it contains a {CLASS}.")
    word = x.tokens.word(CLASS, within="answer")
    plain = model.run(x, [probe.Hidden(0, at=word), probe.Projected()])
    value = -plain[probe.Hidden(0, at=word)].data[0, 0, -1].expand_as(plain.projected().data[0]).clone()
    value[token] *= -1
    return edit.replace(probe.Projected(), value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", ["base", "tiles"])
def test_a_planted_cell_comes_out_on_its_own_pixels(model: probe.Probe, size: str, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if view == "tiles" and not model.backbone.tiled:
        with pytest.raises(InvalidRecipe, match=r'respond\.view="tiles", and .* sees an image in one view'):
            fseg.Segmenter(RECIPE.with_({"respond.view": view}), backbone=model, sam=tiny_sam())
        return
    segmenter = fseg.Segmenter(RECIPE.with_({"respond.view": view}), backbone=model, sam=tiny_sam())
    image = picture(SIZES[size])
    grid = segmenter.grid(image)
    row, col = grid.rows // 2, grid.cols - 1
    change = planted(model, image, grid.tokens[row * grid.cols + col])
    opened = model.open
    monkeypatch.setattr(model, "open", lambda *args, **options: opened(*args, edits=change, **options))
    found = segmenter(image, [CLASS]).evidence[CLASS]
    assert found.refined is not None
    assert found.refined.nonzero().tolist() == [[row, col]]
    height, width = SIZES[size]
    x0, y0, x1, y1 = grid.cell_box(row, col)
    # A box ends on the last pixel that it covers, within the image; a cell of less than a pixel ends where it begins.
    box = (x0, y0, max(x0, min(x1, width) - 1), max(y0, min(y1, height) - 1))
    box = tuple(min(edge, side - 1) for edge, side in zip(box, (width, height, width, height), strict=True))
    assert found.box == pytest.approx(box)
    if size == "wide":
        assert found.box == pytest.approx(WIDE_BOXES[model.family, view], abs=0.01)
    centre = [min(max((a + b) / 2 - 0.5, 0), side - 1) for a, b, side in ((x0, x1, width), (y0, y1, height))]
    assert found.points == (pytest.approx(centre),)


def test_both_views_are_averaged_on_the_cells_of_the_tiles(model: probe.Probe) -> None:
    if not model.backbone.tiled:
        pytest.skip("an image is one view in this family")
    maps, grids = {}, {}
    for view in ("base", "tiles", "both"):
        segmenter = fseg.Segmenter(RECIPE.with_({"respond.view": view, "respond.beta": 2.0}), backbone=model, sam=tiny_sam())
        found = segmenter(picture(SIZES["wide"]), [CLASS]).evidence[CLASS]
        maps[view], grids[view] = found.raw_distance, found.grid
    assert grids["both"] == grids["tiles"]
    base, tiles, both = (maps[view] for view in ("base", "tiles", "both"))
    assert base is not None
    assert tiles is not None
    assert both is not None
    # The middle of a tiles' cell is where the base view's map is read: between its cells' middles, bilinear.
    row, col = grids["tiles"].rows // 2, grids["tiles"].cols // 2
    (down,), (across,) = (
        np.interp(grids["tiles"].centres(axis)[[index]], grids["base"].centres(axis), np.arange(grids["base"].shape[axis]))
        for axis, index in ((0, row), (1, col))
    )
    (top, y), (left, x) = ((int(at), at - int(at)) for at in (down, across))
    below, right = min(top + 1, base.shape[0] - 1), min(left + 1, base.shape[1] - 1)
    there = (base[top, left] * (1 - x) + base[top, right] * x) * (1 - y) + (base[below, left] * (1 - x) + base[below, right] * x) * y
    assert float(both[row, col]) == pytest.approx(float(there + tiles[row, col]) / 2, abs=1e-5)


@pytest.mark.parametrize("features", ["vision", "projected"])
def test_the_method_runs_to_a_label_map(model: probe.Probe, features: str) -> None:
    changes = {"respond.fusion": "D*M_A", "respond.layers": (0.3, 0.8), "refine.mask": "both", "refine.features": features}
    segmenter = fseg.Segmenter(RECIPE.with_(changes), backbone=model, sam=tiny_sam())
    result = segmenter(picture((60, 100)), [CLASS, "dog"])
    assert result.labels.shape == (60, 100)
    found = result.evidence[CLASS]
    assert found.prototype_mask is not None
    assert found.prototype_mask.shape == found.grid.shape == segmenter.grid(picture((60, 100))).shape


def test_the_projected_tokens_are_on_the_grid(model: probe.Probe) -> None:
    """Equal to `inputs_embeds` of Hugging Face at the image's cells, to the bit: they are the same tensor, folded."""
    image = picture((60, 100))
    x = model.encode(image, "What is this?")
    trace = model.run(x, [probe.Projected()])
    (layout,) = x.tokens.layouts
    assert layout is not None
    grid = layout.grids[0]
    e = Evidence("cat", "cat", True, "yes", None, trace, grid=grid)
    assert torch.equal(e.projected_on_grid(), trace.projected().data[0, list(grid.tokens)].float().reshape(*grid.shape, -1))


@pytest.mark.slow
def test_the_command_runs_on_a_folder(model: probe.Probe, tmp_path: Path) -> None:
    folder = zoo.save((model.model, model.processor), tmp_path / "model")
    save_file(
        {name: tensor.contiguous() for name, tensor in tiny_sam().state_dict().items() if "pixel" not in name}, tmp_path / "sam.safetensors"
    )
    picture((60, 100)).save(tmp_path / "a.png")
    (tmp_path / "recipe.toml").write_text(RECIPE.with_({"respond.layers": (0.3, 0.8)}).to_toml())
    command = ["segment", str(tmp_path / "a.png"), "--classes", "cat,dog", "--recipe", str(tmp_path / "recipe.toml")]
    command += ["--backbone", str(folder), "--sam", str(tmp_path / "sam.safetensors"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, command, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert Image.open(tmp_path / "out" / "a" / "labels.png").size == (100, 60)


TILED = ("internvl", "smolvlm", "idefics3", "aya_vision", "cohere2_vision", "llama4")


@pytest.mark.parametrize("name", [*TILED, "llava_next", "llava_onevision"])
def test_the_crop_that_shows_the_whole_image_is_found_among_the_towers_crops(name: str) -> None:
    """Of a change in the lower right corner, no other crop's patches at that place see anything but one tile's."""
    hf, processor = FAMILIES[name]() if name in FAMILIES else processors.build(name)
    model = probe.load(model=hf, processor=processor)
    image = picture((96, 640))
    changed = image.copy()
    changed.paste("white", (560, 64, 640, 96))  # an eighth of the width, a third of the height
    before, after = (
        model.run(model.encode(one, "What?"), probe.Vision(layers=-1)).vision(layer=-1, view="base").grid() for one in (image, changed)
    )
    moved = (after.data - before.data)[0].norm(dim=-1)
    row, col = divmod(int(moved.argmax()), moved.shape[1])
    assert before.view is not None
    _, _, x1, y1 = before.view.cell_box(row, col)
    assert x1 > 560
    assert y1 > 64
