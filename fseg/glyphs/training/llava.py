"""Second phase of the LLaVA: the language model learns to answer, first with a frozen tower, then together with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fseg.glyphs.scenes import CLASSES
from fseg.glyphs.training import corpus, text
from fseg.glyphs.training.tower import GRID, Naming, Run, augmented, coverage, patch_loss, pixels, save_state, tower_config
from fseg.glyphs.training.turns import choose, collate
from fseg.vocabulary.questions import question
from fseg.worlds.training import fast
from fseg.worlds.training.losses import likeness_loss, look_loss
from fseg.worlds.training.optimising import optimisers, restore, set_rate, trapezium
from fseg.worlds.training.speech import initialise_decoder
from fseg.worlds.training.text import LLAVA_TEMPLATE
from fseg.worlds.training.turns import Asked

NEAR = (2, 3, 4, 5)
"""hidden_states of the decoder in which an image cell is trained to be similar to the name of its class."""
LOOK = (3, 4)
"""Decoder blocks in which the description's tokens are trained to attend to the thing described."""
CELLS = GRID * GRID


def llava_config() -> LlavaConfig:
    """Eight blocks of width 128 on the tower's second last hidden states."""
    tokens = text.tokenizer()
    language = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=tower_config(),
        text_config=language,
        image_token_index=tokens.convert_tokens_to_ids(text.IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=CELLS,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )


class Speaker(nn.Module):
    """The LLaVA, and the patch classifier that continues to train its tower."""

    def __init__(self) -> None:
        super().__init__()
        self.llava = LlavaForConditionalGeneration(llava_config())
        self.naming = Naming()
        tower = self.llava.model.vision_tower
        self.holder = "vision_model" if hasattr(tower, "vision_model") else ""
        self.join()
        self.start = torch.tensor(text.tokenizer()(text.BEFORE, add_special_tokens=False)["input_ids"])
        initialise_decoder(self.llava.model.language_model)
        with torch.no_grad():
            for layer in (self.llava.model.multi_modal_projector.linear_1, self.llava.model.multi_modal_projector.linear_2):
                layer.weight.normal_(std=layer.weight.shape[1] ** -0.5)

    def join(self) -> None:
        """Share one tower between the LLaVA and the patch classifier."""
        if self.holder:
            self.llava.model.vision_tower.vision_model = self.naming.tower
        else:
            self.llava.model.vision_tower = self.naming.tower

    def see(self, images: Float[Tensor, "batch 3 side side"]) -> tuple[Tensor, Tensor]:
        """The tower's features, (batch, cell, feature), and the logits of the patches, (batch, cell, label)."""
        features = fast.tower(self.naming.tower, images)
        return features, self.naming.head(self.naming.norm(features))

    def speak(self, features: Tensor, names: Tensor, asked: list[Tensor], share: Float[Tensor, "batch cell label"]) -> Float[Tensor, "4"]:
        """Four losses: of the answers' tokens, the similarity to the class name, the description's attention, and the patches."""
        turns = Asked(*asked)
        language = self.llava.model.language_model
        cells = fast.projector(self.llava.model.multi_modal_projector, features)
        start = language.embed_tokens(self.start).expand(len(cells), -1, -1)
        last, kept, rows = fast.decoder(language, torch.cat([start, cells], 1), language.embed_tokens(turns.ids), NEAR, LOOK)
        predicting = last.gather(2, turns.reply[..., None].expand(-1, -1, -1, last.shape[-1]))
        each = F.cross_entropy(self.llava.lm_head(predicting).float().flatten(0, 2), turns.target.flatten(), reduction="none")
        weight = (turns.target != -100).float()
        weight[..., 0] = 4.0  # the first word, yes or no, matters most
        words = (each.view_as(weight) * weight).sum() / weight.sum()
        truth = _truth(share, turns.label)
        first = len(self.start)
        near = torch.stack([likeness_loss(states, turns, truth, first) for states in kept]).mean()
        look = torch.stack([look_loss(share_[..., first:], turns, truth) for share_ in rows]).mean()
        return torch.stack([words, near, look, patch_loss(names, share)])


def _truth(share: Float[Tensor, "batch cell label"], label: Tensor) -> Float[Tensor, "batch turn cell"]:
    """The share of each cell that the class in question covers; 0 if it is absent."""
    chosen = share.transpose(1, 2).gather(1, label[..., None].expand(-1, -1, share.shape[1]))
    return chosen * (label > 0)[..., None]


def _all_questions(present: dict[int, Float32[np.ndarray, "12"]]) -> list[tuple[str, str, str, int]]:
    """Questions about all classes for one scene."""
    answers = [text.answer(name, present.get(index)) for index, name in enumerate(CLASSES)]
    return [
        (question(name), name, answer, (index + 1) * (index in present))
        for index, (name, answer) in enumerate(zip(CLASSES, answers, strict=True))
    ]


@torch.no_grad()
def validated(model: Speaker, shard: corpus.Shard, count: int = 48) -> dict[str, float]:
    """On held-out scenes, with all classes: sensitivity, specificity, and the IoU of the cells that are similar to the class in layers 3 to 4."""
    model.eval()
    right: dict[bool, list[bool]] = {True: [], False: []}
    ious = []
    yes, no = (text.tokenizer()(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " No"))
    language = model.llava.model.language_model
    for start in range(0, count, 8):
        images, labels, things = (np.array(a[start : start + 8]) for a in (shard.images, shard.labels, shard.things))
        share = coverage(labels)
        rows = [{int(row[0]): row for row in scene if row[0] >= 0} for scene in things]
        turns = collate([_all_questions(row) for row in rows])
        with torch.autocast("cpu", torch.bfloat16):
            features, _ = model.see(pixels(images))
            cells = fast.projector(model.llava.model.multi_modal_projector, features)
            prefix = torch.cat([language.embed_tokens(model.start).expand(len(cells), -1, -1), cells], 1)
            last, kept, _ = fast.decoder(language, prefix, language.embed_tokens(turns.ids), (3, 4))
            where = turns.reply[:, :, :1, None].expand(-1, -1, -1, last.shape[-1])
            logits = model.llava.lm_head(last.gather(2, where))[:, :, 0].float()
        predicted = logits[..., yes] > logits[..., no]
        for b, t in np.ndindex(*predicted.shape):
            right[bool(turns.label[b, t])].append(bool(predicted[b, t]) == bool(turns.label[b, t]))
        first, truth = len(model.start), _truth(share, turns.label)
        cosine = torch.zeros_like(truth)
        for states in kept:
            spoken = states[:, first + CELLS :].unflatten(1, turns.ids.shape[1:])
            names = spoken.gather(2, turns.words[..., 1:, None].expand(-1, -1, -1, spoken.shape[-1]))
            cosine += F.cosine_similarity(states[:, None, first : first + CELLS].float(), names.float(), dim=-1) / len(kept)
        found, real = cosine > (0.75 * cosine.amax(-1, keepdim=True)).clamp(max=0.3), truth > 0.5
        iou = (found & real).sum(-1) / (found | real).sum(-1).clamp(min=1)
        ious += iou[turns.label > 0].tolist()
    model.train()
    return {"sensitivity": float(np.mean(right[True])), "specificity": float(np.mean(right[False])), "cells": float(np.mean(ious))}


@dataclass(frozen=True)
class Schedule:
    """Shares of the time: the tower frozen (`rest`), falling rates (`fall`); the tower's relative rate; numbers of yes questions."""

    rest: float = 0.35
    tower: float = 0.15
    fall: float = 0.6
    positives: tuple[float, ...] = (0.05, 0.45, 0.5)
    later: tuple[float, ...] = (0.2, 0.5, 0.3)


def _draw(rng: np.random.Generator, batch: corpus.Shard, names: Tensor, positives: tuple[float, ...]) -> list[Tensor]:
    likeness = names.detach().float().softmax(-1)[..., 1:].amax(1).numpy()
    return collate([choose(rng, things, looks, positives) for things, looks in zip(batch.things, likeness, strict=True)]).tensors()


def _work(rank: int, run: Run, schedule: Schedule, model: Speaker, kept: list[dict[str, Any]] | None, first: int) -> None:
    """One process, as in the first phase."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed + 1000 * rank + first)
    rng = np.random.default_rng([run.seed, rank, first])
    language = model.llava.model.language_model
    projector = model.llava.model.multi_modal_projector
    speech = optimisers([language, projector, model.llava.lm_head], [language.layers, projector], run.rate)
    sight = optimisers([model.naming], [model.naming.tower.encoder.layers], run.rate * schedule.tower)
    steppers = [*speech, *sight]
    restore(steppers, kept)
    test = corpus.read(run.held_out)[0]
    step, started, source, mean = first, time.monotonic(), None, np.zeros(4)
    while (done := (time.monotonic() - started) / 60 / run.minutes) < 1:
        if source is None:
            source = corpus.batches(corpus.read(run.scenes), run.size, rng)
        frozen = done < schedule.rest
        batch = augmented(next(source), rng)
        share = coverage(batch.labels)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not frozen):
                features, names = model.see(pixels(batch.images, grain=0.03))
            losses = model.speak(features, names, _draw(rng, batch, names, schedule.positives if frozen else schedule.later), share)
        weights = torch.tensor([1.0, 0.5, 0.1, 0.0 if frozen else 0.5])
        (losses * weights).sum().backward()
        set_rate(speech, trapezium(step - first, done, fall=schedule.fall))
        set_rate(sight, 0.0 if frozen else trapezium(step - first, done, fall=schedule.fall) * min(1.0, (done - schedule.rest) / 0.03))
        for stepper in speech if frozen else steppers:
            torch.nn.utils.clip_grad_norm_([p for group in stepper.param_groups for p in group["params"]], 1.0)
            stepper.step()
            stepper.zero_grad()
        step += 1
        mean += (losses.detach().numpy() - mean) / min(step - first, 50)
        if rank == 0 and step % 100 == 0:
            figures = {
                "step": step,
                "minutes": (time.monotonic() - started) / 60,
                **dict(zip(("words", "near", "look", "patch"), mean.tolist(), strict=True)),
            }
            figures |= validated(model, test)
            with (run.out / "llava.jsonl").open("a") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")
            save_state(run.out / "llava.pt", model, steppers, step)
    if rank == 0:
        save_state(run.out / "llava.pt", model, steppers, step)


def train(run: Run, schedule: Schedule | None = None, resume: bool = False) -> None:
    """Train for `run.minutes` from the tower in `out`/tower.pt; the state goes to `out`/llava.pt, the log to `out`/llava.jsonl."""
    torch.manual_seed(run.seed)
    model, kept, first = Speaker(), None, 0
    if resume and (run.out / "llava.pt").exists():
        saved = torch.load(run.out / "llava.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        kept, first = saved["optimisers"], saved["step"]
    else:
        model.naming.load_state_dict(torch.load(run.out / "tower.pt", weights_only=True)["model"])
    model.share_memory()
    spawn(_work, (run, schedule or Schedule(), model, kept, first), nprocs=run.workers)


def save(model: Speaker, folder: Path) -> None:
    """Write a Hugging Face folder: weights in bfloat16, tokenizer, processor, chat template, generation settings."""
    from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor

    tokens = text.tokenizer()
    images = CLIPImageProcessor(
        size={"height": 112, "width": 112}, crop_size={"height": 112, "width": 112}, do_center_crop=False, resample=3
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        image_token=text.IMAGE,
        num_additional_image_tokens=1,
    )
    llava = model.llava.to(torch.bfloat16)
    llava.generation_config = GenerationConfig(
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        do_sample=False,
        max_new_tokens=64,
    )
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
