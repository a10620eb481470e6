"""Trains the tiny SAM on stickers; it may begin with the glyph world's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fseg.stickers.scenes import Style, draw
from fseg.stickers.training import loop
from fseg.stickers.training.tower import HELD_OUT
from fseg.stickers.training.views import VARIED, Supply, Views
from fseg.worlds.training import fast
from fseg.worlds.training.optimising import optimisers
from fseg.worlds.training.sam import SIDE, build, initialise_locally, losses, padded, pixels, prompts, validated

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def _views(rng: np.random.Generator, style: Style, count: int) -> Views:
    """Scenes of several proportions, padded to a square."""
    pairs = []
    for _ in range(count):
        longer = SIDE if rng.random() < 0.5 else int(rng.integers(120, 320))
        shorter = round(longer / rng.uniform(1, 1.6))
        example = draw(rng, style, *((longer, shorter) if rng.random() < 0.5 else (shorter, longer)))
        pairs.append(padded(example.image, Image.fromarray(example.labels.astype(np.uint8))))
    images, labels = (np.stack(each) for each in zip(*pairs, strict=True))
    return Views(images, labels, ())


def batch(seed: int, size: int, step: int) -> Views:
    """The views of a step."""
    return _views(np.random.default_rng([0x73616D, seed, step]), VARIED, size)


def _measured(images: UInt8[np.ndarray, "scene side side 3"], labels: UInt8[np.ndarray, "scene side side"], model: Sam) -> dict[str, float]:
    return validated(model, images, labels)


def train(plan: loop.Plan, start: Path | None = None) -> Sam:
    """Train the SAM, or go on from its state in `plan.folder`.

    Args:
        start: weights to begin with, as `fseg.worlds.training.sam.save` writes them.
    """
    from safetensors.torch import load_file

    torch.manual_seed(plan.seed)
    model = build()
    if start is None:
        initialise_locally(model)
    else:
        model.load_state_dict({name: value.float() for name, value in load_file(start).items()})
    steppers = optimisers([model], [model.image_encoder.blocks, model.mask_decoder.transformer], plan.rate)
    progress = loop.begin(plan, model, steppers)
    test = _views(np.random.default_rng([0x73616D]), HELD_OUT, 96)
    with Supply(partial(batch, plan.seed, plan.size), plan.apart) as supply:

        def parts(step: int) -> dict[str, Tensor]:
            seen, rng = supply(step), np.random.default_rng([4, plan.seed, step])
            with torch.autocast("cpu", torch.bfloat16):
                embedded = fast.sam_encoder(model.image_encoder, pixels(seen.images))
            return {"loss": losses(model, embedded, prompts(seen.labels, rng), rng)}

        average: Sam = loop.run(plan, model, steppers, parts, partial(_measured, test.images, test.labels), progress)
    return average
