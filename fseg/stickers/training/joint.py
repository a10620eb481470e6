"""Second stage: a language model learns to answer about what a tower sees, first with the tower at rest, then together with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaModel, Qwen2VLTextModel

from fseg.stickers.training import loop
from fseg.stickers.training.text import Language, all_questions, choose, collate, tokenizer
from fseg.stickers.training.tower import normalised, patch_loss
from fseg.stickers.training.views import Supply, Views, coverage, light
from fseg.worlds.training import fast
from fseg.worlds.training.losses import likeness_loss, look_loss
from fseg.worlds.training.optimising import optimisers
from fseg.worlds.training.turns import Asked

NEAR = (2, 3, 4, 5)
"""hidden_states of the decoder in which an image cell is trained to be similar to the name of its class."""
LOOK = (3, 4)
"""Decoder blocks in which the description's tokens are trained to attend to the thing described."""
REST = 0.3
"""The share of the steps in which the tower rests."""


class Speaker(Protocol):
    """A backbone in training: a tower that names cells, a projector, and a decoder."""

    language: Language
    cell: int
    """Pixels along a side of a cell."""
    start: Int64[Tensor, " token"]
    """The tokens before the image."""

    def see(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """Features of the cells, (batch, cell, feature), and their logits, (batch, cell, label)."""
        ...

    def project(self, features: Tensor) -> Float[Tensor, "batch cell hidden"]:
        """What the decoder gets of the features."""
        ...

    def rope(self, rows: int, cols: int, before: int, after: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the decoder's positions; None: those of a LlamaModel."""
        ...

    @property
    def decoder(self) -> LlamaModel | Qwen2VLTextModel:
        """The language model without its head."""
        ...

    @property
    def head(self) -> nn.Module:
        """From the decoder's last states to logits."""
        ...


def embedded(model: Speaker, features: Tensor) -> Float[Tensor, "batch position hidden"]:
    """The prefix of all questions: what comes before the image, and the image."""
    cells = model.project(features)
    return torch.cat([model.decoder.embed_tokens(model.start).expand(len(cells), -1, -1), cells], 1)


def speak(
    model: Speaker, features: Tensor, asked: list[Tensor], share: Float[Tensor, "batch cell label"], grid: tuple[int, int]
) -> Float[Tensor, "3"]:
    """Three losses: of the answers' tokens, the similarity to the class name, and the description's attention."""
    turns = Asked(*asked)
    prefix = embedded(model, features)
    before = prefix.shape[1] - grid[0] * grid[1]
    rope = model.rope(*grid, before, turns.ids.shape[2])
    last, kept, rows = fast.decoder(model.decoder, prefix, model.decoder.embed_tokens(turns.ids), NEAR, LOOK, rope)
    predicting = last.gather(2, turns.reply[..., None].expand(-1, -1, -1, last.shape[-1]))
    each = F.cross_entropy(model.head(predicting).float().flatten(0, 2), turns.target.flatten(), reduction="none")
    weight = (turns.target != -100).float()
    weight[..., 0] = torch.where(turns.label > 0, 10.0, 4.0)  # the first word matters most; in an unknown style a yes is easily missed
    words = (each.view_as(weight) * weight).sum() / weight.sum()
    covered = truth(share, turns.label)
    near = torch.stack([likeness_loss(states, turns, covered, before) for states in kept]).mean()
    look = torch.stack([look_loss(share_[..., before:], turns, covered) for share_ in rows]).mean()
    return torch.stack([words, near, look])


def truth(share: Float[Tensor, "batch cell label"], label: Tensor) -> Float[Tensor, "batch turn cell"]:
    """The share of each cell that the class in question covers; 0 if it is absent."""
    chosen = share.transpose(1, 2).gather(1, label[..., None].expand(-1, -1, share.shape[1]))
    return chosen * (label > 0)[..., None]


@torch.no_grad()
def measured(tests: list[Views], model: nn.Module) -> dict[str, float]:
    """With all classes asked: sensitivity, specificity, and the IoU of the cells that are similar to the class in layers 3 to 4."""
    speaker: Speaker = model  # type: ignore[assignment]
    right: dict[bool, list[bool]] = {True: [], False: []}
    ious: list[float] = []
    for test in tests:
        turns = collate(speaker.language, [all_questions(each) for each in test.described])
        predicted, cosine = _answered(speaker, test, turns)
        for said, label in zip(predicted.flatten().tolist(), turns.label.flatten().tolist(), strict=True):
            right[label > 0].append(said == (label > 0))
        covered = truth(coverage(test.labels, speaker.cell), turns.label)
        found, real = cosine > (0.75 * cosine.amax(-1, keepdim=True)).clamp(max=0.3), covered > 0.5
        iou = (found & real).sum(-1) / (found | real).sum(-1).clamp(min=1)
        ious += iou[turns.label > 0].tolist()
    return {"sensitivity": float(np.mean(right[True])), "specificity": float(np.mean(right[False])), "cells": float(np.mean(ious))}


def _answered(model: Speaker, test: Views, turns: Asked) -> tuple[Tensor, Float[Tensor, "batch turn cell"]]:
    """Whether each answer begins with a yes, and the mean cosine of the cells to the answer's class name in layers 3 and 4."""
    height, width = test.labels.shape[1:]
    grid = height // model.cell, width // model.cell
    cells = grid[0] * grid[1]
    encode = tokenizer(model.language)
    yes, no = (encode(word, add_special_tokens=False)["input_ids"][0] for word in (model.language.yes, model.language.form.no))
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = model.see(normalised(torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255))
        prefix = embedded(model, features)
        before = prefix.shape[1] - cells
        rope = model.rope(*grid, before, turns.ids.shape[2])
        last, kept, _ = fast.decoder(model.decoder, prefix, model.decoder.embed_tokens(turns.ids), (3, 4), rope=rope)
        where = turns.reply[:, :, :1, None].expand(-1, -1, -1, last.shape[-1])
        logits = model.head(last.gather(2, where))[:, :, 0].float()
    cosine = torch.zeros(*turns.ids.shape[:2], cells)
    for states in kept:
        spoken = states[:, before + cells :].unflatten(1, turns.ids.shape[1:])
        names = spoken.gather(2, turns.words[..., 1:, None].expand(-1, -1, -1, spoken.shape[-1]))
        cosine += F.cosine_similarity(states[:, None, before : before + cells].float(), names.float(), dim=-1) / len(kept)
    return logits[..., yes] > logits[..., no], cosine


def _positives(done: float) -> tuple[float, ...]:
    """The chances of 0, 1, 2, ... yes questions for a scene: many at first, fewer later, since few classes are in a real question."""
    return (0.05, 0.45, 0.5) if done < REST else (0.2, 0.5, 0.3)


def train(
    plan: loop.Plan,
    model: nn.Module,
    tower: nn.Module,
    see: Callable[[Tensor], tuple[Tensor, Tensor]],
    draw: Callable[[int], Views],
    tests: list[Views],
    compiled: bool = True,
    rest: float = REST,
) -> nn.Module:
    """Train a backbone, or go on from its state in `plan.folder`.

    Args:
        model: a Speaker.
        tower: the part of it that rests at first and then learns at a lower rate.
        see: the model's `see`, or the same compiled.
        draw: the views of a step.
        rest: the share of the steps in which the tower rests.
    """
    speaker: Speaker = model  # type: ignore[assignment]
    seen_by = {id(p) for p in tower.parameters()}
    others = nn.ModuleList([each for each in model.children() if not any(id(p) in seen_by for p in each.parameters())])
    speech = optimisers([others], [others], plan.rate)
    sight = optimisers([tower], [tower], plan.rate * 0.15)
    progress = loop.begin(plan, model, [*speech, *sight])
    loss = torch.compile(partial(speak, speaker), disable=not compiled)
    with Supply(draw, plan.apart) as supply:

        def losses(step: int) -> dict[str, Tensor]:
            frozen = step < rest * plan.steps
            views, rng = supply(step), np.random.default_rng([2, plan.seed, step])
            share = coverage(views.labels, speaker.cell)
            grid = views.labels.shape[1] // speaker.cell, views.labels.shape[2] // speaker.cell
            with torch.autocast("cpu", torch.bfloat16):
                with torch.set_grad_enabled(not frozen):
                    features, names = see(normalised(light(rng, views.images)))
                likeness = names.detach().float().softmax(-1)[..., 1:].amax(1).numpy()
                chances = _positives(step / plan.steps)
                asked = [choose(rng, each, looks, chances) for each, looks in zip(views.described, likeness, strict=True)]
                words, near, look = loss(features, collate(speaker.language, asked).tensors(), share, grid)
            parts = {"words": words, "near": 0.5 * near, "look": 0.1 * look}
            return parts if frozen else {**parts, "patch": 0.5 * patch_loss(names, share)}

        return loop.run(plan, model, [*speech, *sight], losses, partial(measured, tests), progress)
