"""Square vision towers: their patches, how much of the picture their convolution sees, and their tokens beside the patches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from probe.tokens.layout import Box, Grid

_BESIDE: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def tower_size(model: Any) -> tuple[int, int]:
    """Pixels across the tower's square input, and across one patch."""
    vision = model.config.vision_config
    image, patch = (size if isinstance(size, int) else size[0] for size in (vision.image_size, vision.patch_size))
    return int(image), int(patch)


def patches_per_side(model: Any) -> int:
    """Patches across the tower's square input."""
    image, patch = tower_size(model)
    return image // patch


def seen_share(model: Any, inputs: Mapping[str, Any], cells: int) -> float:
    """The share of a square picture's edge that its image tokens cover, from the upper left corner on.

    Args:
        inputs: what the processor returned, with pictures (..., height, width) as `pixel_values`.
        cells: image tokens across the picture, each of a whole number of patches. A convolution drops the pixels behind its last patch.
    """
    _, patch = tower_size(model)
    return share_of(int(inputs["pixel_values"].shape[-1]), patch, cells)


def share_of(edge: int, patch: int, cells: int) -> float:
    """The share of an edge that so many cells of whole patches cover."""
    return cells * (edge // patch // cells) * patch / edge


def upper_left(box: Box, down: float, across: float) -> Box:
    """This share of a box, from its upper left corner on."""
    x0, y0, x1, y1 = box
    return (x0, y0, x0 + across * (x1 - x0), y0 + down * (y1 - y0))


def square_patches(model: Any, view: Grid | None) -> Grid:
    """The patches of a square tower, row by row, over what the view's cells cover and the patches behind the last whole cell."""
    side = patches_per_side(model)
    if view is None:
        return Grid.whole(side, side, (1, 1))
    down, across = (side / (cells * (side // cells)) for cells in (view.rows, view.cols))
    return Grid.whole(side, side, view.image_size, box=upper_left(view.box, down, across))


def tokens_beside_patches(model: Any) -> int:
    """How many tokens the tower puts before its patches: class and register tokens."""
    tower = model.get_encoder(modality="image")
    tower = getattr(tower, "_orig_mod", tower)  # a compiled one
    if tower not in _BESIDE:
        _BESIDE[tower] = _output_length(tower, tower_size(model)[0]) - patches_per_side(model) ** 2
    return _BESIDE[tower]


def _output_length(tower: Any, image: int) -> int:
    """The length of a tower's last state, from a forward of a copy that has shapes and no values."""
    config = copy.deepcopy(tower.config)
    config.num_hidden_layers, config._attn_implementation = 1, "eager"
    with torch.device("meta"), torch.no_grad():
        return int(type(tower)(config)(torch.empty(1, 3, image, image)).last_hidden_state.shape[1])
