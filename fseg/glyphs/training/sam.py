"""Trains the tiny SAM on the glyph world's scenes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fseg.glyphs.training import corpus
from fseg.glyphs.training.tower import save_state
from fseg.worlds.training import fast
from fseg.worlds.training.optimising import optimisers, restore, set_rate, trapezium
from fseg.worlds.training.sam import OUTSIDE, build, initialise_locally, losses, pixels, prompts, validated

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def augmented(batch: corpus.Shard, rng: np.random.Generator) -> corpus.Shard:
    """Randomly mirrored images with permuted or inverted channels; the padding stays."""
    images, labels = batch.images.copy(), batch.labels.copy()
    for image, label in zip(images, labels, strict=True):
        inside = label != OUTSIDE
        height, width = int(inside[:, 0].sum()), int(inside[0].sum())
        content, truth = image[:height, :width], label[:height, :width]
        rows, cols = rng.choice([1, -1], 2)
        fresh = content[::rows, ::cols, rng.permutation(3)] ^ ((rng.random(3) < rng.choice([0.0, 0.5])) * 255).astype(np.uint8)
        content[:], truth[:] = fresh.copy(), truth[::rows, ::cols].copy()
    return corpus.Shard(images, labels, batch.things)


def train(
    scenes: Path,
    held_out: Path,
    out: Path,
    minutes: float,
    resume: bool = False,
    seed: int = 0,
    rate: float = 2e-3,
    fall: float = 0.35,
    size: int = 16,
) -> Sam:
    """Train for `minutes` and keep the state in `out`/sam.pt; the log goes to `out`/sam.jsonl."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build()
    initialise_locally(model)
    steppers = optimisers([model], [model.image_encoder.blocks, model.mask_decoder.transformer], rate)
    step, state = 0, out / "sam.pt"
    if resume and state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        restore(steppers, saved["optimisers"])
        step = saved["step"]
        rng = np.random.default_rng([seed, step])
    test = corpus.read(held_out)[0]
    started, source, mean = time.monotonic(), None, 0.0
    while (done := (time.monotonic() - started) / 60 / minutes) < 1:
        if step % 200 == 0 or source is None:
            source = corpus.batches(corpus.read(scenes), size, rng)
        batch = augmented(next(source), rng)
        asked = prompts(batch.labels, rng)
        set_rate(steppers, trapezium(step, done, fall=fall))
        with torch.autocast("cpu", torch.bfloat16):
            embedded = fast.sam_encoder(model.image_encoder, pixels(batch.images))
        total = losses(model, embedded, asked, rng)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            if torch.isfinite(norm):
                stepper.step()
            stepper.zero_grad()
        step += 1
        mean += (total.item() - mean) / min(step, 50)
        if step % 100 == 0:
            minutes = round((time.monotonic() - started) / 60, 1)
            line = {"step": step, "minutes": minutes, "loss": round(mean, 4), **validated(model, test.images[:96], test.labels[:96])}
            with (out / "sam.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            save_state(state, model, steppers, step)
    save_state(state, model, steppers, step)
    return model
