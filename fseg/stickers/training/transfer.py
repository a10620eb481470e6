"""What the backbone of dynamic size begins with: the square one's tower, projector and decoder, as far as they fit.

From nothing, a tower with four patches a cell takes hours on two cores to learn what the square tower knows already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from fseg.stickers.training.llava import SquareSpeaker
from fseg.stickers.training.text import LLAVA, QWEN, tokenizer
from fseg.stickers.training.tower import SIDE, normalised
from fseg.worlds.training.merged import neighbours

if TYPE_CHECKING:
    from transformers import Qwen2VLTextModel
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel, Qwen2VLVisionBlock

GAIN = 4.0
"""Scores of the neighbour that a head looks at. They stand for the positions that the square tower adds to its patches."""


@torch.no_grad()
def take_tower(
    tower: Qwen2VisionTransformerPretrainedModel, other: SquareSpeaker, images: UInt8[np.ndarray, "batch height width 3"]
) -> None:
    """Fill a Qwen2-VL tower from a CLIP tower of the same width and number of blocks, and its merger from the projector.

    Four things have no place there: positions (heads look at neighbours instead), the class token, the norm before the first block (its mean
    scale stays), and the neurons beyond the narrower MLPs (those that matter least stay behind).

    Args:
        images: scenes by which that scale, and that of the last states, are measured.
    """
    theirs = other.naming.tower
    pixels = F.interpolate(normalised(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255), (SIDE, SIDE), mode="bilinear")
    patches = theirs.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    scale = theirs.pre_layrnorm(patches).std() / patches.std()
    frames = tower.patch_embed.proj.weight.shape[2]
    tower.patch_embed.proj.weight.copy_(theirs.embeddings.patch_embedding.weight[:, :, None] * scale / frames)
    config = tower.config
    size, base = config.embed_dim // config.num_heads, config.rope_parameters["rope_theta"]
    for number, (block, given) in enumerate(zip(tower.blocks, theirs.encoder.layers, strict=True)):
        take_block(block, given)
        query, key = neighbours(number, config.num_heads, size, base, GAIN)
        block.attn.qkv.bias[: 2 * config.embed_dim] += torch.cat([query, key])
    take_projector(tower, other, other.see(pixels)[0].std())


def take_block(block: Qwen2VLVisionBlock, given: CLIPEncoderLayer) -> None:
    attention, mlp = given.self_attn, given.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    block.attn.qkv.weight.copy_(torch.cat([each.weight for each in parts]))
    block.attn.qkv.bias.copy_(torch.cat([each.bias for each in parts]))
    block.attn.proj.load_state_dict(attention.out_proj.state_dict())
    block.norm1.load_state_dict(given.layer_norm1.state_dict())
    block.norm2.load_state_dict(given.layer_norm2.state_dict())
    kept = (mlp.fc1.weight.norm(dim=1) * mlp.fc2.weight.norm(dim=0)).topk(block.mlp.fc1.out_features).indices
    block.mlp.fc1.weight.copy_(mlp.fc1.weight[kept])
    block.mlp.fc1.bias.copy_(mlp.fc1.bias[kept])
    block.mlp.fc2.weight.copy_(mlp.fc2.weight[:, kept])
    block.mlp.fc2.bias.copy_(mlp.fc2.bias)


def take_projector(tower: Qwen2VisionTransformerPretrainedModel, other: SquareSpeaker, scale: Tensor) -> None:
    """A merger whose output begins as the mean of what the projector gives of a cell's patches; neurons that are left begin as they are."""
    first, second = other.projector.linear_1, other.projector.linear_2
    merger, (hidden, width) = tower.merger, first.weight.shape
    patches = tower.spatial_merge_size**2
    nn.init.constant_(merger.ln_q.weight, float(scale))  # the projector knows the states without a norm
    into, out = merger.mlp[0], merger.mlp[2]
    out.weight[:, hidden * patches :].mul_(0.1)
    for k in range(patches):
        rows, cols = slice(k * hidden, (k + 1) * hidden), slice(k * width, (k + 1) * width)
        into.weight[rows] = 0.0
        into.weight[rows, cols] = first.weight
        into.bias[rows] = first.bias
        out.weight[:, rows] = second.weight / patches
    out.bias.copy_(second.bias)


@torch.no_grad()
def take_decoder(decoder: Qwen2VLTextModel, head: nn.Linear, other: SquareSpeaker) -> None:
    """Fill a decoder from a Llama of the same width, as far as it has blocks; embeddings go by the tokens' text. Biases begin as 0."""
    mine, theirs = tokenizer(QWEN).get_vocab(), tokenizer(LLAVA).get_vocab()
    pairs = torch.tensor([(mine[token], theirs[token]) for token in mine if token in theirs])
    for own, given in ((decoder.embed_tokens, other.decoder.embed_tokens), (head, other.head)):
        own.weight[pairs[:, 0]] = given.weight[pairs[:, 1]]
    for block, given in zip(decoder.layers, other.decoder.layers, strict=False):
        left = block.load_state_dict(given.state_dict(), strict=False)
        for name in left.missing_keys:
            block.get_parameter(name).zero_()
    decoder.norm.load_state_dict(other.decoder.norm.state_dict())
