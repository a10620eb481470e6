"""The forward of Qwen2.5-VL's tower and the positions of its decoder, for training: images of one grid in a batch, windows side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from fseg.worlds.training.fast import rms_norm, rotate

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

_EPSILON = 1e-6  # of the tower's norms


@dataclass(frozen=True)
class Arrangement:
    """Places of patches: by window, then by cell, then by patch of a cell. The grid is padded to whole windows.

    Attributes:
        index: for each place its patch, in row-major order; 0 in padding.
        real: which places are patches.
        row, col: where each place is, in patches.
        back: for each cell, in row-major order, its number in the order of windows.
    """

    index: Int64[Tensor, " place"]
    real: Bool[Tensor, " place"]
    row: Int64[Tensor, " place"]
    col: Int64[Tensor, " place"]
    back: Int64[Tensor, " cell"]


@lru_cache(maxsize=64)
def arranged(rows: int, cols: int, window: int, merge: int, windows: int = 0) -> Arrangement:
    """The places of a grid of `rows` x `cols` cells.

    Args:
        window: cells along a side of a window.
        merge: patches along a side of a cell.
        windows: add empty windows up to this number, so that grids of several shapes have one number of places.
    """
    down, across = -(-rows // window) * window, -(-cols // window) * window
    y, x = torch.meshgrid(torch.arange(down * merge), torch.arange(across * merge), indexing="ij")
    missing = max(0, windows - down * across // window**2) * (window * merge) ** 2

    def ordered(values: Tensor, empty: int) -> Tensor:
        parts = values.view(down // window, window, merge, across // window, window, merge)
        return F.pad(parts.permute(0, 3, 1, 4, 2, 5).reshape(-1), (0, missing), value=empty)

    y, x = ordered(y, rows * merge), ordered(x, 0)
    real = (y < rows * merge) & (x < cols * merge)
    index = torch.where(real, y * cols * merge + x, 0)
    # a cell's first patch rises with the cell's number in row-major order
    back = torch.argsort(torch.where(real, index.float(), math.inf).view(-1, merge * merge)[:, 0])[: rows * cols]
    return Arrangement(index, real, y, x, back)


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
    model: Qwen2_5_VisionTransformerPretrainedModel, patches: Float[Tensor, "batch place value"], real: Tensor, row: Tensor, col: Tensor
) -> Float[Tensor, "batch cell feature"]:
    """The tower's output behind its merger, cells in the order of windows."""
    config = model.config
    merge, heads = model.spatial_merge_size, config.num_heads
    batch, count = patches.shape[:2]
    cos, sin = _axial(row, col, config.hidden_size // heads, config.rope_parameters["rope_theta"])
    inside = (config.window_size // model.patch_size) ** 2
    states = F.linear(patches, model.patch_embed.proj.weight.sum(2).flatten(1)).float()  # both frames of a still image are the same
    for number, block in enumerate(model.blocks):
        packed = block.attn.qkv(rms_norm(block.norm1.weight, states, _EPSILON)).view(batch, count, 3, heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin).to(value.dtype), rotate(key, cos, sin).to(value.dtype)
        length = count if number in config.fullatt_block_indexes else inside
        query, key, value = (part.unflatten(2, (-1, length)) for part in (query, key, value))
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~real.view(-1, 1, length), -1e4)
        mixed = (scores.softmax(-1).to(value.dtype) @ value).flatten(2, 3)
        states = states + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        inner, part = rms_norm(block.norm2.weight, states, _EPSILON), block.mlp
        states = states + part.down_proj(F.silu(part.gate_proj(inner)) * part.up_proj(inner))
    cells = rms_norm(model.merger.ln_q.weight, states, _EPSILON).unflatten(1, (-1, merge * merge)).flatten(2)
    merged: Tensor = model.merger.mlp(cells)
    return merged


def tower(
    model: Qwen2_5_VisionTransformerPretrainedModel, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch cell feature"]:
    """The tower's output behind its merger for images of one size, cells in row-major order."""
    patch, merge = model.patch_size, model.spatial_merge_size
    rows, cols = pixels.shape[2] // patch // merge, pixels.shape[3] // patch // merge
    places = arranged(rows, cols, model.window_size // merge // patch, merge)
    return forward(model, cut(pixels, patch, places), places.real, places.row, places.col)[:, places.back]


@torch.no_grad()
def initialise_locally(model: Qwen2_5_VisionTransformerPretrainedModel) -> None:
    """Initialise every head to attend to one neighbour of its patch, by constant queries and keys: RoPE makes a peak at an offset of them."""
    config = model.config
    width, heads = config.hidden_size, config.num_heads
    size = width // heads
    quarter = size // 4
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(quarter) / quarter)
    embed = model.patch_embed.proj.weight
    embed.normal_(std=0.5 / math.sqrt(3) / model.patch_size / 2)
    for number, block in enumerate(model.blocks):
        bias = torch.zeros(3, heads, size)
        for head in range(heads):
            angle = 2 * math.pi * (head / heads + (number % 4) / 8)
            radius = 1.0 + 0.75 * (number // 2)
            phase = torch.cat([frequency * radius * math.sin(angle), frequency * radius * math.cos(angle)])
            bias[0, head] = 3 * torch.cat([phase.cos(), phase.sin()])
            bias[1, head, : 2 * quarter] = 3.0
        block.attn.qkv.bias.copy_(bias.flatten())
        block.attn.qkv.weight[: 2 * width].normal_(std=0.3 * width**-0.5)
        block.attn.qkv.weight[2 * width :].normal_(std=width**-0.5)
        block.attn.proj.weight.normal_(std=0.5 * width**-0.5)
        for layer in (block.mlp.gate_proj, block.mlp.up_proj):
            layer.weight.normal_(std=width**-0.5)
        block.mlp.down_proj.weight.normal_(std=0.5 * config.intermediate_size**-0.5)
    for layer in (model.merger.mlp[0], model.merger.mlp[2]):
        layer.weight.normal_(std=layer.weight.shape[1] ** -0.5)


def rope(config: Qwen2_5_VLTextConfig, before: int, rows: int, cols: int, after: int) -> tuple[Tensor, Tensor]:
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
