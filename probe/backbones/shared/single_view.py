"""LLaVA's view of an image: the tower's patches, row by row, after its class token if that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.backbones.shared.square_tower import share_of_whole_patches, tokens_before_patches, tower_size, upper_left
from probe.tokens.layout import Box, Grid, ImageLayout, whole_box

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def single_view(model: PreTrainedModel, image_size: tuple[int, int], input_size: tuple[int, int], box: Box | None = None) -> ImageLayout:
    """The layout of one view of an image.

    Args:
        image_size: (height, width) of the original image.
        input_size: (height, width) of the tower's input.
        box: the part of the image that the tower's input shows; None: all of it.
    """
    _, patch = tower_size(model)
    rows, cols = (edge // patch for edge in input_size)
    down, across = (share_of_whole_patches(edge, patch, count) for edge, count in zip(input_size, (rows, cols), strict=True))
    box = upper_left(box or whole_box(image_size), down, across)
    dropped = int(getattr(model.config, "vision_feature_select_strategy", "default") == "default")
    extra = tokens_before_patches(model) - dropped
    if extra >= 0:
        return ImageLayout((Grid.whole(rows, cols, image_size, first=extra, box=box),), tuple(range(extra)))
    # "default" drops the tower's first token. In a tower without a class token that is the first patch, so that the first row is
    # incomplete: its tokens are no cells.
    whole = Grid.whole(rows, cols, image_size, box=box)
    below = (box[0], whole.cell_box(1, 0)[1], box[2], box[3])
    return ImageLayout((Grid.whole(rows - 1, cols, image_size, first=cols - 1, box=below),), tuple(range(cols - 1)), shown=whole)
