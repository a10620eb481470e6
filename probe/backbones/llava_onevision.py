"""LLaVA-OneVision: a base view, then tiles of the unpadded picture, shrunk where they are many, with a newline token after each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor, sqrt
from typing import Any

from probe.backbones.base import SHARING, Backbone, register
from probe.backbones.llava import one_view
from probe.backbones.llava_next import rows_of_tokens, tiled_grid, whole_tile
from probe.backbones.tower import tower_size
from probe.tokens.layout import Grid, ImageLayout, Spans


@register("llava_onevision")
class LlavaOnevision(Backbone):
    """Tiles are shrunk until they are at most as many tokens as the base view has, times the number in `anyres_max_9`."""

    tiled = True
    prefix = SHARING

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        config, (tile, patch) = model.config, tower_size(model)
        base = whole_tile(one_view(model, image_size, (tile, tile), None), model)
        grid, newlines = tiled_grid(image_size, config.image_grid_pinpoints, tile, patch, base.tokens)
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = sqrt(grid.rows * grid.cols / (most * base.tokens))
        if ratio > 1.1:
            down, across = (shrunk(spans, int(len(spans) // ratio)) for spans in (grid.spans(0), grid.spans(1)))
            tokens, newlines = rows_of_tokens(len(down), len(across), base.tokens)
            grid = Grid.at(down, across, tokens, image_size, name=grid.name)
        return ImageLayout((replace(base.grid(), name="base"), grid), newlines)


def shrunk(spans: Spans, count: int) -> Spans:
    """So many cells in the place of more: each begins and ends at its share of the cells that it is made of."""

    def edge(place: Fraction, cell: int) -> float:
        start, end = spans[cell]
        return start + float(place - cell) * (end - start)

    edges = [Fraction(place * len(spans), count) for place in range(count + 1)]
    # An edge between two tiles is one cell's end and another's start, with pixels between them that no cell covers.
    return tuple((edge(start, floor(start)), edge(end, ceil(end) - 1)) for start, end in pairwise(edges))
