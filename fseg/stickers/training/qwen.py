"""The backbone of dynamic size: Qwen2-VL's tower with merged patches, and its decoder with M-RoPE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from fseg.stickers.drawings import CLASSES
from fseg.stickers.training import joint, loop
from fseg.stickers.training.llava import SquareSpeaker
from fseg.stickers.training.text import QWEN, start_tokens, tokenizer
from fseg.stickers.training.tower import HELD_OUT, SIDE, labelled, normalised, patch_loss
from fseg.stickers.training.transfer import take_decoder, take_tower
from fseg.stickers.training.views import CROWDED, PLAIN, VARIED, Supply, Views, coverage, light, views
from fseg.worlds.training import merged
from fseg.worlds.training.optimising import optimisers
from fseg.worlds.training.speech import initialise_decoder

PATCH, MERGE = 12, 2  # pixels, patches
CELL = PATCH * MERGE
WIDTH, HIDDEN = 192, 128
SQUARE = (10, 10)
GRIDS = (SQUARE, (9, 11), (11, 9), (8, 12), (12, 8), (7, 14), (14, 7))
"""Rows and columns of cells that the tower is trained on: what the processor makes of images up to 2 to 1."""
SPOKEN = (SQUARE, (8, 12), (12, 8))
"""Those that the decoder is trained on: two numbers of cells."""
PLACES = 100
"""Grids are padded to this number of cells, so that one forward is compiled."""


def qwen_config() -> Qwen2VLConfig:
    """Six blocks of width 192 and a merger; seven decoder blocks of width 128."""
    tokens = tokenizer(QWEN)
    vision = {
        "depth": 6,
        "embed_dim": WIDTH,
        "mlp_ratio": 2,
        "num_heads": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "hidden_size": HIDDEN,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    }
    language = {
        "vocab_size": len(tokens),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        "bos_token_id": None,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "tie_word_embeddings": False,
    }
    named = {
        "image_token_id": QWEN.image,
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    ids = {name: tokens.convert_tokens_to_ids(token) for name, token in named.items()}
    return Qwen2VLConfig(vision_config=vision, text_config=language, tie_word_embeddings=False, **ids)


class MergedNaming(nn.Module):
    """The tower with a linear head that classifies each merged cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Qwen2VLForConditionalGeneration(qwen_config()).model.visual
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, len(CLASSES) + 1)
        self.forward_places = merged.forward

    def compile(self) -> None:
        """Compile what all grids have in common."""
        self.forward_places = torch.compile(merged.forward)

    def see(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """The merged features of the cells, and their logits."""
        rows, cols = pixels.shape[2] // CELL, pixels.shape[3] // CELL
        places = merged.arranged(rows, cols, MERGE, PLACES)
        patches = merged.cut(pixels, PATCH, places)
        features = self.forward_places(self.tower, patches, places.real, places.row, places.col)[:, : rows * cols]
        return features, self.head(self.norm(features))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch cell label"]:
        return self.see(pixels)[1]


class DynamicSpeaker(nn.Module):
    """The Qwen2-VL in training."""

    language = QWEN
    cell = CELL

    def __init__(self) -> None:
        super().__init__()
        self.start = start_tokens(QWEN)
        qwen = Qwen2VLForConditionalGeneration(qwen_config())
        self.naming = MergedNaming()
        self.decoder = qwen.model.language_model
        self.head = qwen.lm_head
        initialise_decoder(self.decoder)

    def see(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        return self.naming.see(pixels)

    def project(self, features: Float[Tensor, "batch cell hidden"]) -> Float[Tensor, "batch cell hidden"]:
        return features  # the merger is part of the tower

    def rope(self, rows: int, cols: int, before: int, after: int) -> tuple[Tensor, Tensor]:
        return merged.rope(self.decoder.config, before, rows, cols, after)

    def whole(self) -> Qwen2VLForConditionalGeneration:
        """The same as one Hugging Face model."""
        qwen = Qwen2VLForConditionalGeneration(qwen_config())
        qwen.model.visual.load_state_dict(self.naming.tower.state_dict())
        qwen.model.language_model.load_state_dict(self.decoder.state_dict())
        qwen.lm_head.load_state_dict(self.head.state_dict())
        return qwen.eval()


def tower_batch(seed: int, size: int, steps: int, step: int) -> Views:
    """The views of a step of the tower."""
    rng = np.random.default_rng([0x77696E, seed, step])
    rows, cols = GRIDS[int(rng.integers(len(GRIDS)))]
    return views(rng, CROWDED if step < 0.7 * steps else VARIED, size, rows * CELL, cols * CELL)


def batch(seed: int, size: int, steps: int, step: int) -> Views:
    """The views of a step of the whole."""
    rng = np.random.default_rng([0x717765, seed, step])
    rows, cols = SPOKEN[int(rng.integers(len(SPOKEN)))]
    return views(rng, PLAIN if step > 0.5 * steps and step % 2 else VARIED, size, rows * CELL, cols * CELL)


def held_out(count: int, size: int = 32) -> list[Views]:
    """Held-out scenes in three grids."""
    return [
        views(np.random.default_rng([0x686577, k]), HELD_OUT, size, rows * CELL, cols * CELL)
        for k, (rows, cols) in zip(range(count // size), SPOKEN * count, strict=False)
    ]


def train_tower(plan: loop.Plan, teacher: Path, compiled: bool = True) -> MergedNaming:
    """Train the tower from that of the square backbone, or go on from its state in `plan.folder`.

    Args:
        teacher: the folder of the square backbone. The merger also learns to give the decoder what that one's projector gives, so that its
            decoder can be taken over.
    """
    torch.manual_seed(plan.seed)
    model, other = MergedNaming(), SquareSpeaker().requires_grad_(False)
    other.read(teacher)
    if not plan.state.exists():
        take_tower(model.tower, other, tower_batch(plan.seed, 16, plan.steps, 0).images)
    if compiled:
        model.compile()
    see_other = torch.compile(other.see, disable=not compiled)
    steppers = optimisers([model], [model.tower.blocks, model.tower.merger], plan.rate)
    progress = loop.begin(plan, model, steppers)
    with Supply(partial(tower_batch, plan.seed, plan.size, plan.steps), plan.apart) as supply:

        def losses(step: int) -> dict[str, Tensor]:
            seen = supply(step)
            pixels = normalised(light(np.random.default_rng([3, plan.seed, step]), seen.images))
            with torch.autocast("cpu", torch.bfloat16):
                features, names = model.see(pixels)
                target = _taught(other, see_other, pixels)
            difference = F.mse_loss(features.float(), target) / target.var()
            return {"patch": patch_loss(names, coverage(seen.labels, CELL)), "features": difference}

        average = loop.run(plan, model, steppers, losses, partial(labelled, held_out(96), cell=CELL), progress)
    assert isinstance(average, MergedNaming)
    return average


@torch.no_grad()
def _taught(
    other: SquareSpeaker, see: Callable[[Tensor], tuple[Tensor, Tensor]], pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch cell hidden"]:
    """What the square backbone's projector gives of the same images, stretched to its size, for the cells of this one's grid."""
    rows, cols = pixels.shape[2] // CELL, pixels.shape[3] // CELL
    features, _ = see(F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True))
    states = other.project(features).float().transpose(1, 2).unflatten(2, (SIDE // PATCH, SIDE // PATCH))
    return F.interpolate(states, (rows, cols), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def train(plan: loop.Plan, tower: Path, teacher: Path, compiled: bool = True) -> DynamicSpeaker:
    """Train the Qwen2-VL from the state of its tower and the decoder of the square backbone, or go on from its own state.

    Args:
        tower: the state of the tower.
        teacher: the folder of the square backbone.
    """
    torch.manual_seed(plan.seed)
    model = DynamicSpeaker()
    if not plan.state.exists():
        model.naming.load_state_dict(loop.read_state(tower)["average"])
        other = SquareSpeaker()
        other.read(teacher)
        take_decoder(model.decoder, model.head, other)
    draw = partial(batch, plan.seed, plan.size, plan.steps)
    if compiled:
        model.naming.compile()
    average = joint.train(plan, model, model.naming, model.see, draw, held_out(32, 8), compiled, rest=0.1)
    assert isinstance(average, DynamicSpeaker)
    return average


def save(model: DynamicSpeaker, folder: Path) -> None:
    """Write a Hugging Face folder: weights in bfloat16, tokenizer, processor, chat template, generation settings."""
    from transformers import GenerationConfig, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    tokens = tokenizer(QWEN)
    pixels = SQUARE[0] * SQUARE[1] * CELL**2
    images = Qwen2VLImageProcessor(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size={"shortest_edge": round(0.9 * pixels), "longest_edge": pixels}
    )
    videos = Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
    qwen = model.whole().to(torch.bfloat16)
    qwen.generation_config = GenerationConfig(
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, do_sample=False, max_new_tokens=64
    )
    qwen.save_pretrained(folder)
    Qwen2VLProcessor(images, tokens, videos, chat_template=QWEN.template).save_pretrained(folder)
