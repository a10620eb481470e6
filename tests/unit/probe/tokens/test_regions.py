"""From pixels to image tokens: boxes and masks, and the cells that they cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.errors import GridUnknown, InvalidRead, SpanNotFound
from tests import zoo

GRID = probe.Grid.whole(2, 4, (100, 400), first=3)  # cells of 50 x 100 pixels, tokens 3 to 10


def mask_of(x0: int, y0: int, x1: int, y1: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((100, 400), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("box", "share", "tokens"),
    [
        ((0, 0, 400, 100), 1, range(3, 11)),
        ((100, 0, 200, 50), 1, [4]),
        ((120, 0, 300, 60), 0.5, [4, 5]),  # 80 %, 100 %, and a fifth of those below
        ((120, 0, 300, 60), 0.9, [5]),
        ((120, 0, 300, 60), 0, [4, 5, 8, 9]),
        ((150, 0, 200, 50), 0.5, [4]),
        ((151, 0, 200, 50), 0.5, []),
    ],
)
def test_a_box_and_a_mask_of_it_cover_the_same_cells(box: tuple[int, int, int, int], share: float, tokens: Any) -> None:
    assert GRID.covered_by(box, share) == tuple(tokens)
    assert GRID.covered_by(mask_of(*box), share) == tuple(tokens)


def test_of_a_cell_that_reaches_past_the_image_the_part_inside_counts() -> None:
    padded = probe.Grid.whole(2, 2, (40, 80), box=(0, -20, 80, 60))  # a square around a wide image: each row is half padding
    assert padded.covered_by((0, 0, 40, 40)) == (0, 2)
    assert padded.covered_by(np.ones((40, 80), dtype=bool), share=1) == (0, 1, 2, 3)
    outside = probe.Grid.whole(2, 1, (40, 80), box=(0, 0, 80, 80))
    assert outside.covered_by((0, 0, 80, 80), share=0) == (0,)


def test_pixels_between_cells_belong_to_none() -> None:
    apart = probe.Grid.at(((0, 5), (5, 10)), ((0, 8), (12, 20)), (0, 1, 2, 3), (10, 20))
    assert apart.covered_by((8, 0, 12, 10), share=0) == ()
    assert apart.covered_by((8, 0, 20, 5), share=1) == (1,)


@pytest.mark.parametrize(
    "region", [(0, 0, 10), (10, 0, 10, 5), "cat", np.ones((100, 399), dtype=bool), np.ones((100, 400)), (0, 0, float("nan"), 5), None]
)
def test_what_is_no_region_is_refused(region: Any) -> None:
    with pytest.raises(InvalidRead, match="mask"):
        GRID.covered_by(region)


def test_the_cells_of_a_map_s_peak_are_the_tokens_that_it_was_made_of(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava_next()
    model = probe.load(model=hf, processor=processor)
    y = model.encode(wide_image, "Is there a cat?")
    hidden = model.run(y, probe.Hidden(2, at="image")).hidden(layer=2)
    for view in ("base", "tiles"):
        cells = hidden.layout.grid(view).tokens  # type: ignore[union-attr]
        chosen = torch.zeros(len(y.tokens.span("image")))
        chosen[list(cells[5:7])] = 1
        pixels = probe.Activation(chosen, ("token",), layout=hidden.layout).grid(view).to_pixels().numpy()
        span = y.tokens.cells(np.nan_to_num(pixels) > 0.5, view=view)
        first = y.tokens.span("image").positions[0]
        assert span.positions == tuple(first + token for token in cells[5:7])
    trace = model.run(y, probe.Hidden(2, at=span), edits=probe.edit.zero(probe.Hidden(2, at=span)))
    assert float(trace.hidden(span).data.abs().max()) == 0


def test_cells_that_are_not_known_are_an_error(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor)
    tokens = model.encode(wide_image, "Is there a cat?").tokens
    with pytest.raises(SpanNotFound, match=r"No cell has 0\.5 of its area in this region. Pass share=0"):
        tokens.cells((0, 0, 1, 1))
    assert len(tokens.cells((30, 5, 31, 6), share=0)) == 1
    with pytest.raises(GridUnknown, match="image 1 were asked for, there are 1"):
        tokens.cells((0, 0, 9, 9), image=1)
    with pytest.raises(InvalidRead, match="share=2"):
        tokens.cells((0, 0, 9, 9), share=2)
    plain = model.run(dict(model.encode(wide_image, "Is there a cat?").inputs), probe.Hidden(1)).tokens[0]
    with pytest.raises(GridUnknown, match="plain encoding does not say"):
        plain.cells((0, 0, 9, 9))
