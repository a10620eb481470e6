"""LLaVA-OneVision: a base view, then tiles of the unpadded image, shrunk if they are many, with a newline token after each row."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import ceil, floor, sqrt

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.square_tower import SquareTower, tower_size
from probe.backbones.shared.unpadded_tiles import base_view, grid_with_newlines, unpadded_tiles
from probe.tokens.layout import ImageLayout, Intervals
from probe.tokens.video import VideoLayout


@register("llava_onevision")
class LlavaOnevision(SquareTower):
    """Tiles are shrunk to at most n times the base view's tokens, where `vision_aspect_ratio` is "anyres_max_n"."""

    tiled = True
    prefix = SHARING

    def layout(self, image: ProcessedImage) -> ImageLayout:
        config, base = image.model.config, base_view(image)
        first = len(base.tokens)
        tiles, newlines = unpadded_tiles(image.size, config.image_grid_pinpoints, *tower_size(image.model), first)
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * first
        ratio = sqrt(len(tiles.tokens) / most)
        if ratio > 1.1:
            down, across = (shrunk(tiles.intervals(axis), int(count // ratio)) for axis, count in enumerate((tiles.rows, tiles.cols)))
            tiles, newlines = grid_with_newlines(down, across, image.size, first)
        return ImageLayout((base, tiles), newlines)

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        """A frame's patches are interpolated to half as many down and across; a newline token ends the video."""
        patches = round(video.processor.num_image_tokens**0.5)
        side, (edge, patch) = ceil(patches / 2), tower_size(video.model)
        frame = square_grid(side, video.size, covered=patches * patch / edge, name="video")
        return VideoLayout.repeated(frame, video.frames, last=1)


def shrunk(intervals: Intervals, count: int) -> Intervals:
    """The intervals of `count` cells instead of more: each begins and ends at its share of the cells that it is interpolated from."""

    def edge(at: Fraction, cell: int) -> float:
        start, end = intervals[cell]
        return start + float(at - cell) * (end - start)

    edges = [Fraction(number * len(intervals), count) for number in range(count + 1)]
    # An edge between two tiles is one cell's end and another's start, with pixels between them that no cell covers.
    return tuple((edge(start, floor(start)), edge(end, ceil(end) - 1)) for start, end in pairwise(edges))
