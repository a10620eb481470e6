"""Vision towers that are trained from nothing: the start, the input, and what is measured."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModel

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
"""CLIP's mean and standard deviation, of values 0 to 1."""


def initialise_locally(model: CLIPVisionModel) -> None:
    """Initialise every head to attend to one neighbour of its patch, as the taps of a convolution do.

    Positions are sines and cosines in the first 64 channels. Keys take them as they are, queries rotated by the phase of an offset, so that
    their product peaks at that offset.
    """
    patch = model.embeddings.patch_embedding.weight.shape[-1]
    positions, width = model.embeddings.position_embedding.weight.shape
    grid = math.isqrt(positions)  # the class token is one more
    size, count = 64, 16
    frequency = torch.logspace(math.log10(2 * math.pi / 40), math.log10(math.pi / 2), count)

    def code(row: Tensor, col: Tensor) -> Tensor:
        waves = [f(x[:, None] * frequency) for x in (row, col) for f in (torch.cos, torch.sin)]
        return torch.cat(waves, -1)

    row, col = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    with torch.no_grad():
        model.embeddings.patch_embedding.weight.mul_(0.5 / model.embeddings.patch_embedding.weight.std() / math.sqrt(3 * patch * patch))
        position = model.embeddings.position_embedding.weight
        position.normal_(std=0.02)
        position[1:, :size] += code(row.flatten().float(), col.flatten().float())
        for number, layer in enumerate(model.encoder.layers):
            block = layer.self_attn
            for head in range(block.num_heads):
                angle = 2 * math.pi * (head / block.num_heads + (number % 4) * 3 / 8)
                radius = 1.0 + 0.5 * (number // 2)
                turn = torch.zeros(size, size)
                for axis, shift in ((0, radius * math.sin(angle)), (1, radius * math.cos(angle))):
                    start = axis * 2 * count
                    for k in range(count):
                        c, s = math.cos(shift * frequency[k]), math.sin(shift * frequency[k])
                        i, j = start + k, start + count + k
                        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
                rows = slice(head * size, (head + 1) * size)
                for projection, matrix in ((block.q_proj, turn), (block.k_proj, torch.eye(size))):
                    projection.weight[rows] = 0.02 * torch.randn(size, width)
                    projection.weight[rows, :size] += 0.75 * matrix
            block.v_proj.weight.normal_(std=width**-0.5)
            block.out_proj.weight.normal_(std=0.5 * width**-0.5)
            layer.mlp.fc1.weight.normal_(std=width**-0.5)
            layer.mlp.fc2.weight.normal_(std=0.5 * (4 * width) ** -0.5)


@torch.no_grad()
def recognition(logits: Float[Tensor, "batch cell label"], share: Float[Tensor, "batch cell label"]) -> tuple[float, float, float]:
    """Accuracy on object patches, on whole objects (the votes of their patches summed), and on background patches."""
    best = logits.argmax(-1)
    truth = share.argmax(-1)
    objects = share[..., 1:].amax(-1) >= 0.5
    patches = (best == truth)[objects].float().mean()
    votes = logits.float().log_softmax(-1)[..., 1:].transpose(1, 2) @ (share[..., 1:] * (share[..., 1:] > 0.2))
    present = share[..., 1:].sum(1) > 0
    right = votes.argmax(1) == torch.arange(votes.shape[-1])
    ground = (best == 0)[share[..., 0] > 0.99].float().mean()
    return float(patches), float(right[present].float().mean()), float(ground)
