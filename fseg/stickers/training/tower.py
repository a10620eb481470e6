"""First stage: a vision tower learns to name the class under each cell."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from fseg.stickers.drawings import CLASSES, TRAINING
from fseg.stickers.scenes import PHOTOGRAPHS, Style
from fseg.stickers.training import loop
from fseg.stickers.training.views import CROWDED, VARIED, Supply, Views, coverage, light, views
from fseg.worlds.training import fast
from fseg.worlds.training.optimising import optimisers
from fseg.worlds.training.sight import MEAN, STD, initialise_locally, recognition

SIDE, CELL = 168, 12
WIDTH, DEPTH, HEADS = 192, 6, 3
SMOOTH = 0.05
HELD_OUT = Style(TRAINING, PHOTOGRAPHS["held-out"])
"""Scenes for the measurements during training: training artists, seeds and photographs that are not trained on."""


def tower_config() -> CLIPVisionConfig:
    """Six blocks, all of them used (`vision_feature_layer=-1`)."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=CELL,
        projection_dim=WIDTH,
    )


def patch_loss(
    logits: Float[Tensor, "batch cell label"], share: Float[Tensor, "batch cell label"], smooth: float = SMOOTH
) -> Float[Tensor, ""]:
    """Cross-entropy to the covered shares, smoothed; background, which is frequent, has a quarter of the weight."""
    target = share * (1 - smooth) + smooth / share.shape[-1]
    weight = 0.25 + (1 - share[..., 0])
    loss = -(target * logits.float().log_softmax(-1)).sum(-1)
    return (weight * loss).sum() / weight.sum()


class Naming(nn.Module):
    """The square tower with a linear head that classifies each cell."""

    def __init__(self) -> None:
        super().__init__()
        model = CLIPVisionModel(tower_config())
        self.tower = getattr(model, "vision_model", model)
        initialise_locally(self.tower)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CLASSES) + 1)

    def see(self, pixels: Float[Tensor, "batch 3 side side"]) -> tuple[Tensor, Tensor]:
        """The features of the cells, and their logits."""
        features = fast.tower(self.tower, pixels, None)
        return features, self.head(self.norm(features))

    def forward(self, pixels: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch cell label"]:
        return self.see(pixels)[1]


def normalised(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Values 0 to 1, normalised by CLIP's mean and standard deviation."""
    return (images - MEAN) / STD


def batch(seed: int, size: int, steps: int, step: int) -> Views:
    """The views of a step: crowded ones for the first four fifths."""
    style = CROWDED if step < 0.8 * steps else VARIED
    return views(np.random.default_rng([0x746F77, seed, step]), style, size, SIDE, SIDE)


def held_out(count: int) -> list[Views]:
    """Held-out scenes in batches of 32."""
    return [views(np.random.default_rng([0x68656C, k]), HELD_OUT, 32, SIDE, SIDE) for k in range(count // 32)]


@torch.no_grad()
def labelled(tests: list[Views], model: nn.Module, cell: int = CELL) -> dict[str, float]:
    """Shares of object cells, objects and background cells that are named right: means over the tests, whose grids may differ."""
    found = []
    for test in tests:
        pixels = normalised(torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels).float()
        found.append(recognition(logits, coverage(test.labels, cell)))
    patches, objects, ground = np.mean(found, axis=0).tolist()
    return {"patches": patches, "objects": objects, "ground": ground}


def train(plan: loop.Plan, compiled: bool = True) -> Naming:
    """Train the tower, or go on from its state in `plan.folder`."""
    torch.manual_seed(plan.seed)
    model = Naming()
    steppers = optimisers([model], [model.tower.encoder.layers], plan.rate)
    progress = loop.begin(plan, model, steppers)
    loss = torch.compile(lambda pixels, share: patch_loss(model(pixels), share), disable=not compiled)

    with Supply(partial(batch, plan.seed, plan.size, plan.steps), plan.apart) as supply:

        def losses(step: int) -> dict[str, Tensor]:
            seen = supply(step)
            pixels = normalised(light(np.random.default_rng([1, plan.seed, step]), seen.images))
            with torch.autocast("cpu", torch.bfloat16):
                return {"loss": loss(pixels, coverage(seen.labels, CELL))}

        average = loop.run(plan, model, steppers, losses, partial(labelled, held_out(192)), progress)
    assert isinstance(average, Naming)
    return average
