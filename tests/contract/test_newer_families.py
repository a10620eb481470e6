"""What is particular to the families that came with transformers 5.24; what all have in common is in the other files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import probe
from probe.verification.painting import check_grid, inner_cells
from tests.families import newer, skip_if_lacking
from tests.processors.offline import model, template, tokenizer
from tests.zoo import enliven

SHAPES = ((480, 640), (100, 1000), (1000, 100), (40, 56))


def hy_v4_vl() -> tuple[Any, Any]:
    words = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
    images, videos = transformers.HYV4VLImageProcessor(), transformers.HYV4VLVideoProcessor()
    processor = transformers.HYV4VLProcessor(images, words, videos, chat_template=template("<|image_pad|>"))
    tower = {"patch_size": images.patch_size, "max_image_size": 2048}
    return model("hy_v4_vl", words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>", vision_config=tower), processor


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_painting_a_cell_of_hunyuan_4_moves_its_own_token_most(height: int, width: int) -> None:
    skip_if_lacking("hy_v4_vl")
    hf, processor = hy_v4_vl()
    opened = probe.load(model=hf, processor=processor)
    noise = np.random.default_rng(0).integers(0, 2, (height // 4, width // 4, 3), dtype=np.uint8) * 255
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)

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
