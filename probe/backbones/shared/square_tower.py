"""Vision towers with a square input: their patches, how much of the image the patches cover, and their class and register tokens."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from probe.backbones.base import Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.tokens.layout import Box, Grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EXTRA_TOKENS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class SquareTower(Backbone):
    """A family whose tower takes square images. Its patches are row by row, so `Vision` states can be folded."""

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid:
        return square_patches(model, view)


def tower_size(model: PreTrainedModel) -> tuple[int, int]:
    """Pixels across the tower's square input, and across one patch."""
    vision = model.config.vision_config
    image, patch = (size if isinstance(size, int) else size[0] for size in (vision.image_size, vision.patch_size))
    return int(image), int(patch)


def patches_per_side(model: PreTrainedModel) -> int:
    """Patches across the tower's square input."""
    image, patch = tower_size(model)
    return image // patch


def covered_share(image: ProcessedImage, cells: int) -> float:
    """The share of the tower's square input, from its upper left corner, that `cells` x `cells` image tokens cover.

    Less than 1 where the input's edge is no multiple of the patch: the tower's first convolution drops the pixels after the last patch.
    """
    _, patch = tower_size(image.model)
    return share_of_whole_patches(image.input_size[1], patch, cells)


def share_of_whole_patches(edge: int, patch: int, cells: int) -> float:
    """The share of an edge (in pixels) that `cells` cells cover, each of a whole number of patches."""
    return cells * (edge // patch // cells) * patch / edge


def upper_left(box: Box, down: float, across: float) -> Box:
    """The upper left part of a box: these shares of its height and of its width."""
    x0, y0, x1, y1 = box
    return (x0, y0, x0 + across * (x1 - x0), y0 + down * (y1 - y0))


def centred_on_receptive_fields(grid: Grid, stride: int) -> Grid:
    """The grid of tokens after strided convolutions, its cells moved onto the centres of their receptive fields.

    Kernels are odd and padding is even, so a receptive field's centre is the first of a cell's `stride` units, not their middle.
    """
    shift = (stride - 1) / (2 * stride)
    x0, y0, x1, y1 = grid.box
    right, down = (x1 - x0) / grid.cols * shift, (y1 - y0) / grid.rows * shift
    return replace(grid, box=(x0 - right, y0 - down, x1 - right, y1 - down))


def square_patches(model: PreTrainedModel, view: Grid | None) -> Grid:
    """The patches of a square tower, row by row. They cover the view's cells, and the patches after its last whole cell."""
    side = patches_per_side(model)
    if view is None:
        return Grid.whole(side, side, (1, 1))
    down, across = (side / (cells * (side // cells)) for cells in (view.rows, view.cols))
    return Grid.whole(side, side, view.image_size, box=upper_left(view.box, down, across))


def tokens_before_patches(model: PreTrainedModel) -> int:
    """How many class and register tokens the tower puts before its patches."""
    tower = model.get_encoder(modality="image")
    tower = getattr(tower, "_orig_mod", tower)  # torch.compile's wrapper
    if tower not in _EXTRA_TOKENS:
        _EXTRA_TOKENS[tower] = _output_length(tower, tower_size(model)[0]) - patches_per_side(model) ** 2
    return _EXTRA_TOKENS[tower]


def _output_length(tower: PreTrainedModel, image: int) -> int:
    """The length of a tower's last hidden state, from a forward of a one-layer copy on the meta device."""
    config = copy.deepcopy(tower.config)
    config.num_hidden_layers, config._attn_implementation = 1, "eager"
    with torch.device("meta"), torch.no_grad():
        return int(type(tower)(config)(torch.empty(1, 3, image, image)).last_hidden_state.shape[1])
