"""What is particular to the families that came with transformers 5.24; what all have in common is in the other files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.verification.painting import check_grid, inner_cells
from tests.families import newer, skip_if_lacking
from tests.processors.newer import apertus1p5, hy_v4_vl
from tests.zoo import enliven

SHAPES = ((480, 640), (100, 1000), (1000, 100), (40, 56))


@pytest.mark.parametrize(("height", "width"), [(160, 240), *SHAPES[1:]])
def test_a_cell_of_apertus_is_the_word_that_its_pixels_become(height: int, width: int) -> None:
    skip_if_lacking("apertus1p5")
    torch.manual_seed(0)
    hf, processor = apertus1p5()
    opened, image = probe.load(model=hf, processor=processor), blocks(height, width)
    features = probe.Module("model.vision_tokenizer.quant_conv")

    def quantised(shown: Image.Image) -> torch.Tensor:
        """What is quantised: (feature, row, col)."""
        return opened.run(opened.encode(shown, "What is this?"), features)[features].data[0]

    x = opened.encode(image, "What is this?")
    grid, before = x.tokens.layouts[0].grid(), quantised(image)
    assert before.shape[1:] == (grid.rows, grid.cols)
    (codes,) = hf.model.get_image_tokens(x.inputs["pixel_values"], x.inputs["image_sizes"])
    projected = opened.run(x, probe.Projected()).projected().grid().data[0]
    assert torch.equal(projected, hf.get_input_embeddings()(codes).detach().view(grid.rows, grid.cols, -1))
    for row, col in inner_cells(grid, np.random.default_rng(0), 3):
        painted = np.array(image)
        left, top, right, bottom = (round(edge) for edge in grid.cell_box(row, col))
        painted[top:bottom, left:right] = 255 - painted[top:bottom, left:right]
        moved = (quantised(Image.fromarray(painted)) - before).norm(dim=0)
        # Each convolution of stride 2 pads on the right and below, so what a cell sees lies up to half a cell to its lower right.
        most, across = divmod(int(moved.argmax()), grid.cols)
        assert (row - most, col - across) in ((0, 0), (0, 1), (1, 0), (1, 1))


def blocks(height: int, width: int) -> Image.Image:
    """Noise of blocks of 4 x 4 pixels, each channel black or white."""
    noise = np.random.default_rng(0).integers(0, 2, (height // 4, width // 4, 3), dtype=np.uint8) * 255
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_painting_a_cell_of_hunyuan_4_moves_its_own_token_most(height: int, width: int) -> None:
    skip_if_lacking("hy_v4_vl")
    hf, processor = hy_v4_vl()
    opened, image = probe.load(model=hf, processor=processor), blocks(height, width)

    def projected(shown: Image.Image) -> probe.Activation:
        return opened.run(opened.encode(shown, "What is this?"), probe.Hidden(0, at="image")).hidden(layer=0)

    before = projected(image)
    assert before.layout is not None
    grid = before.layout.grid()
    assert len(before.layout.separators) == grid.rows
    check = check_grid(image, before, grid, inner_cells(grid, np.random.default_rng(0), 4), projected)
    assert check.passed, str(check)


def test_a_decoder_that_runs_blocks_several_times_says_so() -> None:
    skip_if_lacking("inkling2_loop")
    torch.manual_seed(0)
    small, inputs = newer.inkling2_loop()
    opened = probe.load(model=enliven(small))
    with pytest.raises(probe.errors.InvalidRead, match=r"Hidden\(\) cannot be read from this family: its decoder runs some blocks several"):
        opened.run(inputs, probe.Hidden(1))
    trace = opened.run(inputs, [probe.Projected(), probe.Logits(None)])
    with torch.no_grad():
        features = small.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True).pooler_output
        logits = small(**inputs, use_cache=False).logits
    assert float((trace.projected().data[0] - torch.cat(list(features))).abs().max()) == 0
    assert float((trace.logits(None).data - logits).abs().max()) == 0
