"""The tiny SAM, segment-anything's own `Sam` class, and its training with points, boxes and both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fseg.labels.values import IGNORED
from fseg.sam.network import PIXEL_MEAN, PIXEL_STD
from fseg.worlds.training import fast

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SIDE, PATCH = 192, 8
LOW = SIDE // PATCH * 4  # side of the mask decoder's output
OUTSIDE = IGNORED  # the label of padding
_PAD = (124, 116, 104)  # SAM pads with zeros after its mean is taken away
MEAN = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(PIXEL_STD).view(1, 3, 1, 1)


def build(width: int = 128, depth: int = 4, heads: int = 2, size: int = 64) -> Sam:
    """An untrained tiny Sam: all blocks attend globally; all else is segment-anything's default."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        out_chans=size,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=0,
        global_attn_indexes=tuple(range(depth)),
    )
    grid = SIDE // PATCH
    prompts = PromptEncoder(embed_dim=size, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=size, mlp_dim=256, num_heads=8)
    decoder = MaskDecoder(transformer_dim=size, transformer=transformer, num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=64)
    return Sam(encoder, prompts, decoder)


def initialise_locally(model: Sam) -> None:
    """Initialise every head of the encoder to attend to one neighbour: a constant query and a parabola of relative positions."""
    with torch.no_grad():
        for number, block in enumerate(model.image_encoder.blocks):
            attention = block.attn
            size = attention.rel_pos_h.shape[1]
            direction = F.normalize(torch.randn(attention.num_heads, size), dim=-1)
            attention.qkv.bias[: attention.num_heads * size] = 4 * direction.flatten()
            span = attention.rel_pos_h.shape[0] // 2
            step = (span - torch.arange(2 * span + 1)).float()  # key minus query: segment-anything stores query minus key
            # one table is shared by the heads, so that the offset lies along a diagonal that alternates between blocks
            for table, shift in ((attention.rel_pos_h, (1, -1, 0, 0)[number % 4]), (attention.rel_pos_w, (0, 0, 1, -1)[number % 4])):
                valley = (0.35 * (step - shift) ** 2).clamp(max=4)
                table.copy_(-(valley / 4)[:, None] * direction.mean(0) * attention.num_heads + 0.01 * torch.randn_like(table))


def padded(image: Image.Image, labels: Image.Image) -> tuple[UInt8[np.ndarray, "side side 3"], UInt8[np.ndarray, "side side"]]:
    """The image with its longer side resized to SIDE, padded below or to the right with SAM's mean colour; and its labels."""
    scale = SIDE / max(image.size)
    width, height = int(image.width * scale + 0.5), int(image.height * scale + 0.5)
    canvas = np.full((SIDE, SIDE, 3), _PAD, dtype=np.uint8)
    canvas[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    truth = np.full((SIDE, SIDE), OUTSIDE, dtype=np.uint8)
    truth[:height, :width] = np.asarray(labels.resize((width, height), Image.Resampling.NEAREST))
    return canvas, truth


def pixels(images: UInt8[np.ndarray, "batch side side 3"]) -> Float[Tensor, "batch 3 side side"]:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - MEAN) / STD


@dataclass(frozen=True)
class Prompts:
    """Prompts for a batch of objects, in pixels of the padded image."""

    owner: list[int]
    """The index of each object's image in the batch."""
    masks: UInt8[np.ndarray, "object side side"]
    points: Float[np.ndarray, "object 3 2"]
    """(x, y) inside or near the object."""
    boxes: Float[np.ndarray, "object 4"]


def _points(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, cell: float) -> Float[np.ndarray, "3 2"]:
    """Three points: a random mix of pixels of the object, its centroid, and centroids of parts, as from a coarse mask."""
    chosen = rng.integers(0, len(x), 3)
    found = np.stack([x[chosen], y[chosen]], -1).astype(np.float32)
    for row in found:
        kind = rng.random()
        if kind < 0.35:
            row[:] = x.mean(), y.mean()
        elif kind < 0.6:
            near = np.hypot(x - row[0], y - row[1]) < rng.uniform(1, 4) * cell
            row[:] = x[near].mean(), y[near].mean()
    return found + rng.normal(0, rng.choice([0.0, 0.15]) * cell, (3, 2))


def _box(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, cell: float) -> Float[np.ndarray, "4"]:
    """The true box, the same with loose sides, or the box of a coarse grid's cells, off by up to one cell."""
    box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=np.float32)
    kind = rng.random()
    if kind < 0.25:
        box += rng.normal(0, 0.05, 4) * np.tile(box[2:] - box[:2] + 1, 2)
    elif kind < 0.55:
        phase = np.array([0, 0, 1, 1])
        box = (np.floor(box / cell) + phase) * cell - phase + rng.choice([-1, 0, 0, 0, 1], 4) * cell
        box = np.concatenate([np.minimum(box[:2], box[2:] - cell), np.maximum(box[2:], box[:2] + cell)])
    return box.clip(0, SIDE - 1)


def prompts(labels: UInt8[np.ndarray, "batch side side"], rng: np.random.Generator) -> Prompts:
    """Every object of the batch, with random points and a random box."""
    owner, masks, points, boxes = [], [], [], []
    for k, label in enumerate(labels):
        for value in np.unique(label):
            if value in (0, OUTSIDE):
                continue
            mask = label == value
            y, x = np.nonzero(mask)
            if len(x) < 12:
                continue
            cell = SIDE / 14 * rng.uniform(0.6, 1.0)  # images are not square: cells are narrower along one axis
            owner.append(k)
            masks.append(mask)
            points.append(_points(rng, x, y, cell))
            boxes.append(_box(rng, x, y, cell))
    return Prompts(owner, np.stack(masks).astype(np.uint8), np.stack(points).astype(np.float32), np.stack(boxes).astype(np.float32))


def decode(model: Sam, images: Float[Tensor, "object size row col"], points: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mask decoder on one prompt per image embedding: (object, 4, LOW, LOW) logits and (object, 4) predicted IoU.

    `MaskDecoder.predict_masks` is the same for many prompts of one image.
    """
    pairs = None if points is None else (points, torch.ones(points.shape[:2], dtype=torch.int))
    sparse, dense = model.prompt_encoder(points=pairs, boxes=boxes, masks=None)
    part = model.mask_decoder
    output = torch.cat([part.iou_token.weight, part.mask_tokens.weight])[None].expand(len(sparse), -1, -1)
    position = model.prompt_encoder.get_dense_pe().expand(len(sparse), -1, -1, -1)
    tokens, source = part.transformer(images + dense, position, torch.cat([output, sparse], 1))
    shape = images.shape
    upscaled = part.output_upscaling(source.transpose(1, 2).reshape(shape))
    weights = torch.stack([part.output_hypernetworks_mlps[k](tokens[:, 1 + k]) for k in range(part.num_mask_tokens)], 1)
    logits = (weights @ upscaled.flatten(2)).unflatten(-1, upscaled.shape[-2:])
    return logits, part.iou_prediction_head(tokens[:, 0])


def mask_loss(logits: Float[Tensor, "object mask row col"], soft: Float[Tensor, "object row col"]) -> Float[Tensor, "object mask"]:
    """Cross-entropy in units of the object's area, and dice."""
    target = soft[:, None].expand_as(logits)
    area = target.sum((-1, -2))
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((-1, -2)) / (2 * area + 60)
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * target).sum((-1, -2)) + 1) / (chance.sum((-1, -2)) + area + 1)
    return entropy + dice


def overlap(logits: Float[Tensor, "object mask row col"], soft: Float[Tensor, "object row col"]) -> Float[Tensor, "object mask"]:
    """IoU at the resolution of the logits."""
    found, truth = logits > 0, (soft > 0.5)[:, None]
    return (found & truth).sum((-1, -2)) / (found | truth).sum((-1, -2)).clamp(min=1)


def loss(logits: Tensor, predicted: Tensor, soft: Tensor, ambiguous: bool) -> Tensor:
    """Mask 0 is trained on all prompts, masks 1 to 3 on single points (their best, and their mean). The predicted IoU is trained on the true one."""
    used = logits if ambiguous else logits[:, :1]
    each = mask_loss(used, soft)
    masks = each[:, 0]
    if ambiguous:
        masks = masks + 0.5 * each[:, 1:].amin(1) + 0.5 * each[:, 1:].mean(1)
    return masks.mean() + F.mse_loss(predicted[:, : used.shape[1]].float(), overlap(used.detach(), soft))


def arrangements(rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Two random kinds of prompts: (number of points, whether there is a box)."""
    ways = [(1, False), (int(rng.integers(2, 4)), False), (0, True), (1, True), (int(rng.integers(2, 4)), True)]
    first, second = rng.choice(len(ways), 2, replace=False, p=[0.2, 0.15, 0.25, 0.25, 0.15])
    return [ways[first], ways[second]]


def losses(model: Sam, embedded: Float[Tensor, "batch size row col"], asked: Prompts, rng: np.random.Generator) -> Float[Tensor, ""]:
    """The loss of a batch's objects: every other object gets prompts of one kind, the rest of another."""
    soft = F.avg_pool2d(torch.from_numpy(asked.masks)[:, None].float(), SIDE // LOW)[:, 0]
    total = torch.zeros(())
    for half, (count, boxed) in enumerate(arrangements(rng)):
        points = torch.from_numpy(asked.points[half::2, :count]) if count else None
        boxes = torch.from_numpy(asked.boxes[half::2]) if boxed else None
        with torch.autocast("cpu", torch.bfloat16):
            logits, predicted = decode(model, embedded[asked.owner[half::2]].float(), points, boxes)
        total = total + loss(logits.float(), predicted, soft[half::2], ambiguous=count == 1 and not boxed)
    return total


@torch.no_grad()
def validated(model: Sam, images: UInt8[np.ndarray, "scene side side 3"], labels: UInt8[np.ndarray, "scene side side"]) -> dict[str, float]:
    """Mean IoU of mask 0 on held-out scenes, from true boxes and centroids, at the decoder's resolution."""
    figures: dict[str, list[float]] = {"both": [], "box": [], "point": []}
    for start in range(0, len(images), 16):
        seen, truth = (np.asarray(a[start : start + 16]) for a in (images, labels))
        asked = prompts(truth, np.random.default_rng(0))
        found = [np.nonzero(mask) for mask in asked.masks]
        boxes = torch.tensor(np.array([[x.min(), y.min(), x.max(), y.max()] for y, x in found], dtype=np.float32))
        points = torch.tensor(np.array([[[x.mean(), y.mean()]] for y, x in found], dtype=np.float32))
        soft = F.avg_pool2d(torch.from_numpy(asked.masks)[:, None].float(), SIDE // LOW)[:, 0]
        with torch.autocast("cpu", torch.bfloat16):
            embedded = fast.sam_encoder(model.image_encoder, pixels(seen)).float()[asked.owner]
        for name, p, b in (("both", points, boxes), ("box", None, boxes), ("point", points, None)):
            logits, _ = decode(model, embedded, p, b)
            figures[name] += overlap(logits[:, :1], soft)[:, 0].tolist()
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def save(model: Sam, file: Path) -> None:
    """Write the weights, in bfloat16, under segment-anything's names."""
    from safetensors.torch import save_file

    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}, file)
