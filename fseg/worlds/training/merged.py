"""The forward of Qwen2-VL's tower and the positions of its decoder, for training: images of one grid in a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from fseg.worlds.training.fast import rotate

if TYPE_CHECKING:
    from transformers import Qwen2VLTextConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel


@dataclass(frozen=True)
class Arrangement:
    """Places of patches: by cell in row-major order, then by patch of a cell; empty places behind them.

    Attributes:
        index: for each place its patch, in row-major order; 0 where it is empty.
        real: which places have a patch.
        row, col: where each place is, in patches.
    """

    index: Int64[Tensor, " place"]
    real: Bool[Tensor, " place"]
    row: Int64[Tensor, " place"]
    col: Int64[Tensor, " place"]


@lru_cache(maxsize=64)
def arranged(rows: int, cols: int, merge: int, cells: int = 0) -> Arrangement:
    """The places of a grid of `rows` x `cols` cells.

    Args:
        merge: patches along a side of a cell.
        cells: add empty cells up to this number, so that grids of several shapes have one number of places.
    """
    y, x = torch.meshgrid(torch.arange(rows * merge), torch.arange(cols * merge), indexing="ij")
    missing = max(0, cells - rows * cols) * merge**2
    y, x = (F.pad(each.view(rows, merge, cols, merge).transpose(1, 2).flatten(), (0, missing)) for each in (y, x))
    real = torch.arange(len(y)) < rows * cols * merge**2
    return Arrangement(y * cols * merge + x, real, y, x)


def cut(pixels: Float[Tensor, "batch 3 height width"], patch: int, places: Arrangement) -> Float[Tensor, "batch place value"]:
    """The patches of images, by place."""
    batch, _, height, width = pixels.shape
    rows, cols = height // patch, width // patch
    patches = pixels.view(batch, 3, rows, patch, cols, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * cols, 3 * patch**2)
    return patches[:, places.index]


def _axial(y: Tensor, x: Tensor, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rows and columns, (place, size)."""
    frequency = base ** (-torch.arange(0, size // 2, 2, dtype=torch.float32) / (size // 2))
    angle = torch.cat([y[:, None] * frequency, x[:, None] * frequency], -1)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def forward(
    model: Qwen2VisionTransformerPretrainedModel, patches: Float[Tensor, "batch place value"], real: Tensor, row: Tensor, col: Tensor
) -> Float[Tensor, "batch cell feature"]:
    """The tower's output behind its merger, of all cells, the empty ones included."""
    config = model.config
    heads = config.num_heads
    batch, count = patches.shape[:2]
    cos, sin = _axial(row, col, config.embed_dim // heads, config.rope_parameters["rope_theta"])
    states = F.linear(patches, model.patch_embed.proj.weight.sum(2).flatten(1)).float()  # both frames of a still image are the same
    for block in model.blocks:
        packed = block.attn.qkv(block.norm1(states)).view(batch, count, 3, heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin).to(value.dtype), rotate(key, cos, sin).to(value.dtype)
        scores = ((query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5).masked_fill(~real, -1e4)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        states = states + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        inner = block.mlp.fc1(block.norm2(states))
        states = states + block.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
    cells = model.merger.ln_q(states).unflatten(1, (-1, model.spatial_merge_size**2)).flatten(2)
    merged: Tensor = model.merger.mlp(cells)
    return merged


def tower(
    model: Qwen2VisionTransformerPretrainedModel, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch cell feature"]:
    """The tower's output behind its merger for images of one size, cells in row-major order."""
    patch, merge = model.config.patch_size, model.spatial_merge_size
    places = arranged(pixels.shape[2] // patch // merge, pixels.shape[3] // patch // merge, merge)
    return forward(model, cut(pixels, patch, places), places.real, places.row, places.col)


def neighbours(number: int, heads: int, size: int, base: float, gain: float) -> tuple[Float[Tensor, " value"], Float[Tensor, " value"]]:
    """Biases of queries and keys by which each head of a block attends to one neighbour of its patch: RoPE makes a peak at an offset of them.

    Args:
        number: of the block; later blocks look further.
        size: features of a head.
        base: RoPE's theta.
        gain: the scores at the peak, before the softmax.
    """
    quarter = size // 4
    frequency = base ** (-torch.arange(quarter) / quarter)
    strength = math.sqrt(gain / (2 * quarter) * math.sqrt(size))
    query, key = torch.zeros(heads, size), torch.zeros(heads, size)
    for head in range(heads):
        angle = 2 * math.pi * (head / heads + (number % 4) / 8)
        radius = 1.0 + 0.75 * (number // 2)
        phase = torch.cat([frequency * radius * math.sin(angle), frequency * radius * math.cos(angle)])
        query[head] = strength * torch.cat([phase.cos(), phase.sin()])
        key[head, : 2 * quarter] = strength
    return query.flatten(), key.flatten()


def rope(config: Qwen2VLTextConfig, before: int, rows: int, cols: int, after: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of M-RoPE, (1, 1, position, size): text, the cells of an image, and text again."""
    size = config.hidden_size // config.num_attention_heads
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    image = before + torch.stack([torch.zeros(rows * cols, dtype=torch.long), y.flatten(), x.flatten()])
    first, last = torch.arange(before).expand(3, -1), (before + max(rows, cols) + torch.arange(after)).expand(3, -1)
    positions = torch.cat([first, image, last], 1)
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(config.rope_parameters["mrope_section"]))
    angle = positions[axis].T * frequency
    angle = torch.cat([angle, angle], -1)[None, None]
    return angle.cos(), angle.sin()
