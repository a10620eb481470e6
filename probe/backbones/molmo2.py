"""Molmo 2: the whole image as one square, then one grid over overlapping crops of which each patch is taken once; patches are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.tiled_layout import padded_canvas
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout


class _Pools(Protocol):
    patch_size: int
    pooling_size: tuple[int, int]


@register("molmo2")
class Molmo2(Backbone):
    """An odd number of patches is padded to the right and below before pooling: the last cells reach past the image.

    The features are added to the image tokens' own embeddings.
    """

    tiled = True
    projected_states = False
    prefix = SHARING

    def renumbered(self, inputs: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """Which patches are pooled into a token: those of all images are numbered through, as the processor does for several; -1 is none."""
        counted, before = [], 0
        for row in inputs:
            if "image_token_pooling" in row:
                pooled, crops = row["image_token_pooling"], row["pixel_values"]
                row = {**row, "image_token_pooling": torch.where(pooled >= 0, pooled + before, pooled)}
                before += crops.shape[0] * crops.shape[1]
            counted.append(row)
        return counted

    def layout(self, image: ProcessedImage) -> ImageLayout:
        from transformers.models.molmo2.image_processing_molmo2 import compute_crop_geometry

        images = image.image_processor
        edge, patch = images.size["height"], images.patch_size
        _, _, *canvas = compute_crop_geometry(*image.size, images.max_crops, images.overlap_margins, edge, patch)
        rows, cols, tile_rows, tile_cols = image.inputs["image_grids"][image.index].tolist()

        base = _pooled(images, image.size, (rows, cols), (edge, edge), "base")
        return ImageLayout((base, _pooled(images, image.size, (tile_rows, tile_cols), (canvas[0], canvas[1]), "tiles", len(base.tokens))))

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        """Each frame is a whole square, as the base view; texts of other tokens name the frames."""
        videos, (_, rows, cols) = video.video_processor, video.inputs["video_grids"][video.index].tolist()
        frame = _pooled(videos, video.size, (rows, cols), (videos.size["height"], videos.size["width"]), "video")
        return VideoLayout.repeated(frame, video.frames)


def _pooled(images: _Pools, size: tuple[int, int], cells: tuple[int, int], shown: tuple[int, int], name: str, first: int = 0) -> Grid:
    """The grid of pooled patches over an image or a frame.

    Args:
        images: the part of the processor that prepared it.
        cells: down and across.
        shown: (height, width) that it was resized to.
    """
    (rows, cols), (down, across), patch = cells, images.pooling_size, images.patch_size
    box = padded_canvas(size, (rows * down * patch, cols * across * patch), shown)
    return Grid.whole(rows, cols, size, name=name, first=first, box=box)
