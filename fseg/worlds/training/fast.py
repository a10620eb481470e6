"""Forwards for training on two cores: the weights of Hugging Face's modules, in operations that torch.compile fuses well.

Attention is written out, because the fused kernel is half as fast on a CPU at these sizes. A test compares these forwards with Hugging
Face's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT
    from transformers import CLIPVisionModel, LlamaModel, Qwen2VLTextModel
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Bool[Tensor, "query key"] | None = None) -> tuple[Tensor, Tensor]:
    """Softmax attention over (batch, head, token, feature); also the logarithms of the rows before the softmax."""
    scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -1e4)
    rows = scores.softmax(-1)
    return rows @ value, rows


def tower(
    model: CLIPVisionModel, pixels: Float[Tensor, "batch 3 side side"], blocks: int | None = -1
) -> Float[Tensor, "batch cell feature"]:
    """The hidden states of a CLIPVisionModel behind its first `blocks` blocks (-1: all but the last, None: all), without the class token."""
    embeddings = model.embeddings
    batch, side, patch = len(pixels), pixels.shape[-1], embeddings.patch_size
    grid = side // patch
    patches = pixels.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)
    states = F.linear(patches, embeddings.patch_embedding.weight.flatten(1))
    states = torch.cat([embeddings.class_embedding.to(states.dtype).expand(batch, 1, -1), states], 1) + embeddings.position_embedding.weight
    states = model.pre_layrnorm(states)
    for layer in model.encoder.layers[:blocks]:
        block = layer.self_attn
        weight = torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight])
        bias = torch.cat([block.q_proj.bias, block.k_proj.bias, block.v_proj.bias])
        packed = F.linear(layer.layer_norm1(states), weight, bias).view(batch, -1, 3, block.num_heads, block.head_dim)
        mixed, _ = attend(*packed.permute(2, 0, 3, 1, 4))
        states = states + block.out_proj(mixed.transpose(1, 2).flatten(2))
        inner = layer.mlp.fc1(layer.layer_norm2(states))
        states = states + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
    return states[:, 1:]


def projector(model: LlavaMultiModalProjector, features: Float[Tensor, "batch cell feature"]) -> Float[Tensor, "batch cell hidden"]:
    """The output of a LlavaMultiModalProjector."""
    projected: Tensor = model.linear_2(F.gelu(model.linear_1(features)))
    return projected


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return states * cos + torch.cat([-states[..., half:], states[..., :half]], -1) * sin


def _rope(positions: Tensor, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE for (batch, token) positions: (batch, 1, token, size)."""
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle = positions[:, None, :, None].float() * torch.cat([frequency, frequency])
    return angle.cos(), angle.sin()


def rms_norm(weight: Tensor, states: Tensor, epsilon: float) -> Tensor:
    wide = states.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def decoder(
    model: LlamaModel | Qwen2VLTextModel,
    prefix: Float[Tensor, "batch position hidden"],
    turns: Float[Tensor, "batch turn token hidden"],
    keep: tuple[int, ...] = (),
    rows: tuple[int, ...] = (),
    rope: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A LlamaModel on embeddings: one prefix, and several turns that each attend to the prefix and to themselves, not to each other.

    Args:
        rope: cosines and sines for the prefix and one turn, (1, 1, position + token, size), as `merged.rope` gives them for a
            Qwen2VLTextModel. None: those of a LlamaModel.

    Returns:
        The turns' last states after the norm, (batch, turn, token, hidden); the states of all after each number of blocks in `keep`,
        (batch, position + turn * token, hidden); the attention rows of the turns to the prefix in each block of `rows`,
        (batch, head, turn * token, position).
    """
    config = model.config
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    batch, prefix_length, _ = prefix.shape
    count, length = turns.shape[1:3]
    if rope is None:
        rope = _rope(torch.arange(prefix_length + length)[None], size, config.rope_parameters["rope_theta"])
    cos, sin = (torch.cat([part[:, :, :prefix_length], part[:, :, prefix_length:].repeat(1, 1, count, 1)], 2) for part in rope)
    before = torch.ones(prefix_length, prefix_length, dtype=torch.bool).tril()
    within = torch.ones(length, length, dtype=torch.bool).tril().repeat(count, 1)
    states = torch.cat([prefix, turns.flatten(1, 2)], 1).float()
    kept, attended = [], []
    for number, layer in enumerate(model.layers):
        block = layer.self_attn
        weight = torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight])
        bias = None if block.q_proj.bias is None else torch.cat([block.q_proj.bias, block.k_proj.bias, block.v_proj.bias])
        packed = F.linear(rms_norm(layer.input_layernorm.weight, states, config.rms_norm_eps), weight, bias)
        query, key, value = packed.view(batch, -1, 3, heads, size).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin).to(value.dtype), rotate(key, cos, sin).to(value.dtype)
        first, _ = attend(query[:, :, :prefix_length], key[:, :, :prefix_length], value[:, :, :prefix_length], before)
        asked = query[:, :, prefix_length:]
        own_key, own_value = (part[:, :, prefix_length:].unflatten(2, (count, length)) for part in (key, value))
        own = (asked.unflatten(2, (count, length)) @ own_key.transpose(-1, -2)).flatten(2, 3).masked_fill(~within, -1e4)
        share = (torch.cat([asked @ key[:, :, :prefix_length].transpose(-1, -2), own], -1) * size**-0.5).softmax(-1)
        seen = share[..., :prefix_length] @ value[:, :, :prefix_length]
        within_turn = share[..., prefix_length:].unflatten(2, (count, length)) @ own_value
        mixed = torch.cat([first, seen + within_turn.flatten(2, 3)], 2)
        if number in rows:
            attended.append(share[..., :prefix_length])
        states = states + block.o_proj(mixed.transpose(1, 2).flatten(2))
        inner = rms_norm(layer.post_attention_layernorm.weight, states, config.rms_norm_eps)
        states = states + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(inner)) * layer.mlp.up_proj(inner))
        if number + 1 in keep:
            kept.append(states)
    last = rms_norm(model.norm.weight, states[:, prefix_length:], config.rms_norm_eps)
    return last.unflatten(1, (count, length)), kept, attended


def _relative(table: Float[Tensor, "offset feature"], side: int) -> Float[Tensor, "query key feature"]:
    """Rows of a table of relative positions, by query and key coordinate."""
    coordinate = torch.arange(side)
    return table[coordinate[:, None] - coordinate[None] + side - 1]


def sam_encoder(model: ImageEncoderViT, pixels: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch size row col"]:
    """The output of segment-anything's ImageEncoderViT with global attention in all blocks.

    Relative positions are added as more features of queries and keys (one-hot coordinates for the keys), so that the scores are written
    once.
    """
    convolution = model.patch_embed.proj
    batch, patch = len(pixels), convolution.kernel_size[0]
    grid = pixels.shape[-1] // patch
    patches = pixels.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)
    states = F.linear(patches, convolution.weight.flatten(1), convolution.bias) + model.pos_embed.flatten(1, 2)
    cell = torch.arange(grid * grid)
    one_hot = torch.cat([F.one_hot(cell // grid, grid), F.one_hot(cell % grid, grid)], -1)
    for block in model.blocks:
        part = block.attn
        packed = part.qkv(block.norm1(states)).view(batch, grid * grid, 3, part.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        spread = query.unflatten(2, (grid, grid))
        down = torch.einsum("bhrcd,rkd->bhrck", spread, _relative(part.rel_pos_h, grid).to(query.dtype))
        right = torch.einsum("bhrcd,ckd->bhrck", spread, _relative(part.rel_pos_w, grid).to(query.dtype))
        wide = torch.cat([query * part.scale, down.flatten(2, 3), right.flatten(2, 3)], -1)
        long = torch.cat([key, one_hot.to(key.dtype).expand(*key.shape[:2], -1, -1)], -1)
        mixed = (wide @ long.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value
        states = states + part.proj(mixed.transpose(1, 2).flatten(2))
        states = states + block.mlp.lin2(F.gelu(block.mlp.lin1(block.norm2(states))))
    return model.neck(states.transpose(1, 2).unflatten(2, (grid, grid)))
