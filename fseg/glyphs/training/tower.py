"""First phase of the LLaVA: its vision tower learns to classify the glyph under each patch."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from transformers import CLIPVisionConfig, CLIPVisionModel

from fseg.glyphs.scenes import CLASSES
from fseg.glyphs.training import corpus
from fseg.worlds.training import fast
from fseg.worlds.training.optimising import optimisers, restore, set_rate, trapezium
from fseg.worlds.training.sight import MEAN, STD, initialise_locally, recognition

SIDE, PATCH = 112, 8
WIDTH, HEADS = 192, 3
GRID = SIDE // PATCH


def tower_config() -> CLIPVisionConfig:
    """Six blocks whose output the language model gets, and a seventh that is unused (LLaVA takes `hidden_states[-2]`)."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=7,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )


def augmented(batch: corpus.Shard, rng: np.random.Generator) -> corpus.Shard:
    """Cheap augmentation of stored scenes: mirrored, shifted by some pixels, with permuted or inverted channels.

    `things` is updated, so that descriptions of the new image are true.
    """
    images, labels, things = batch.images.copy(), batch.labels.copy(), batch.things.copy()
    side = images.shape[1]
    for k in range(len(images)):
        valid = things[k, :, 0] >= 0
        if rng.random() < 0.5:
            images[k], labels[k] = images[k, :, ::-1].copy(), labels[k, :, ::-1].copy()
            things[k, valid, 8] = 1 - things[k, valid, 8]
        if rng.random() < 0.7:
            down, right = rng.integers(-6, 7, 2)
            rows, cols = np.clip(np.arange(side) - down, 0, side - 1), np.clip(np.arange(side) - right, 0, side - 1)
            images[k], labels[k] = images[k][rows][:, cols], labels[k][rows][:, cols]
            things[k, valid, 8] += right / side
            things[k, valid, 9] += down / side
        if rng.random() < 0.7:
            order = rng.permutation(3)
            invert = rng.random(3) < rng.choice([0.0, 0.5, 1.0])
            images[k] = images[k][..., order]
            images[k] ^= (invert * 255).astype(np.uint8)
            for first in (1, 4):
                colour = things[k, :, first : first + 3][:, order]
                things[k, :, first : first + 3] = np.where(valid[:, None], np.where(invert, 255 - colour, colour), -1)
    return corpus.Shard(images, labels, things)


def crowded(batch: corpus.Shard, rng: np.random.Generator, share: float = 0.7) -> corpus.Shard:
    """Paste the things of another scene of the batch over some of the scenes: twice the glyphs for the same work. `things` is not updated."""
    others = np.roll(np.arange(len(batch.labels)), 1)
    paste = (batch.labels[others] > 0) & (rng.random(len(others)) < share)[:, None, None]
    images = np.where(paste[..., None], batch.images[others], batch.images)
    return corpus.Shard(images, np.where(paste, batch.labels[others], batch.labels), batch.things)


def pixels(images: UInt8[np.ndarray, "batch side side 3"], grain: float = 0.0) -> Float[Tensor, "batch 3 side side"]:
    """The tower's input, normalised by CLIP's mean and standard deviation, with optional noise."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    if grain:  # the same noise for the whole batch: drawing it takes time
        values = values + grain * torch.rand(len(values), 1, 1, 1) * torch.randn_like(values[:1])
    return (values - MEAN) / STD


def coverage(labels: UInt8[np.ndarray, "batch side side"]) -> Float[Tensor, "batch cell label"]:
    """The share of each patch that each label (0 background) covers."""
    batch, count = len(labels), len(CLASSES) + 1
    cell = np.arange(SIDE) // PATCH
    index = (cell[:, None] * GRID + cell)[None] + GRID * GRID * np.arange(batch)[:, None, None]
    found = np.bincount((index * count + labels).ravel(), minlength=batch * GRID * GRID * count)
    return torch.from_numpy(found).view(batch, GRID * GRID, count).float() / (PATCH * PATCH)


def patch_loss(logits: Float[Tensor, "batch cell label"], share: Float[Tensor, "batch cell label"]) -> Float[Tensor, ""]:
    """Cross-entropy to the covered shares; background, which is frequent, has a quarter of the weight."""
    weight = 0.25 + (1 - share[..., 0])
    loss = -(share * logits.float().log_softmax(-1)).sum(-1)
    return (weight * loss).sum() / weight.sum()


class Naming(nn.Module):
    """The tower with a linear head that classifies each patch."""

    def __init__(self) -> None:
        super().__init__()
        model = CLIPVisionModel(tower_config())
        self.tower = getattr(model, "vision_model", model)
        initialise_locally(self.tower)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CLASSES) + 1)

    def forward(self, pixels: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch cell label"]:
        return self.head(self.norm(fast.tower(self.tower, pixels)))


def validated(model: Naming, shard: corpus.Shard, count: int = 256) -> tuple[float, float, float]:
    """`recognition` on held-out scenes."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = torch.cat([model(pixels(shard.images[k : k + 64])) for k in range(0, count, 64)])
    model.train()
    return recognition(logits.float(), coverage(np.asarray(shard.labels[:count])))


@dataclass(frozen=True)
class Run:
    """One phase of training: the folders of its scenes and of its state, its duration, its processes."""

    scenes: Path
    held_out: Path
    out: Path
    minutes: float
    seed: int = 0
    rate: float = 2e-3
    size: int = 32
    """Scenes in a step of one process."""
    workers: int = 2


def _work(rank: int, run: Run, model: Naming, kept: list[dict[str, Any]] | None, first: int) -> None:
    """One process: it updates the shared weights without locks (Hogwild), with its own optimisers."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed + 1000 * rank + first)
    rng = np.random.default_rng([run.seed, rank, first])
    steppers = optimisers([model], [model.tower.encoder.layers], run.rate)
    restore(steppers, kept)
    compiled = torch.compile(lambda pixels, share: patch_loss(model(pixels), share))
    test = corpus.read(run.held_out)[0]
    step, started, source, mean = first, time.monotonic(), None, 0.0
    while (done := (time.monotonic() - started) / 60 / run.minutes) < 1:
        if step % 200 == 0 or source is None:  # more shards may have been written
            source = corpus.batches(corpus.read(run.scenes), run.size, rng)
        batch = crowded(augmented(next(source), rng), rng, 0.8 if done < 0.8 else 0.0)
        set_rate(steppers, trapezium(step, done))
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(pixels(batch.images, grain=0.03), coverage(batch.labels))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        step += 1
        mean += (loss.item() - mean) / min(step - first, 50)
        if rank == 0 and step % 100 == 0:
            patches, objects, ground = validated(model, test)
            minutes = (time.monotonic() - started) / 60
            figures = {"step": step, "minutes": minutes, "loss": mean, "patches": patches, "objects": objects, "ground": ground}
            with (run.out / "tower.jsonl").open("a") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")
            save_state(run.out / "tower.pt", model, steppers, step)
    if rank == 0:
        save_state(run.out / "tower.pt", model, steppers, step)


def save_state(file: Path, model: nn.Module, steppers: list[torch.optim.Optimizer], step: int) -> None:
    part = file.with_suffix(".part")
    torch.save(
        {"world": "glyphs", "model": model.state_dict(), "optimisers": [stepper.state_dict() for stepper in steppers], "step": step}, part
    )
    part.replace(file)


def train(run: Run, resume: bool = False) -> None:
    """Train for `run.minutes` and keep the state in `out`/tower.pt; the log goes to `out`/tower.jsonl."""
    torch.manual_seed(run.seed)
    model, kept, first = Naming(), None, 0
    if resume and (run.out / "tower.pt").exists():
        saved = torch.load(run.out / "tower.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        kept, first = saved["optimisers"], saved["step"]
    model.share_memory()
    spawn(_work, (run, model, kept, first), nprocs=run.workers)
