"""The backbone of dynamic size: Qwen2.5-VL's windowed tower with merged patches, and its decoder with M-RoPE."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fseg.stickers.drawings import CLASSES
from fseg.stickers.training import joint, loop
from fseg.stickers.training.llava import SquareSpeaker
from fseg.stickers.training.text import LLAVA, QWEN, start_tokens, tokenizer
from fseg.stickers.training.tower import HELD_OUT, labelled, normalised, patch_loss
from fseg.stickers.training.views import CROWDED, PLAIN, VARIED, Supply, Views, coverage, light, views
from fseg.worlds.training import windowed
from fseg.worlds.training.optimising import optimisers
from fseg.worlds.training.speech import initialise_decoder

PATCH, MERGE, WINDOW = 6, 2, 4  # pixels, patches, cells
CELL = PATCH * MERGE
WIDTH, HIDDEN = 128, 128
SQUARE = (14, 14)
GRIDS = ((13, 15), (15, 13), (12, 16), (16, 12), (11, 17), (17, 11))
"""Rows and columns of cells that the tower is trained on beside the square: what the processor makes of images up to 1.6 to 1."""
SPOKEN = (SQUARE, (11, 17), (17, 11))
"""Those that the decoder is trained on: the square and the longest, two numbers of cells."""
WINDOWS = (12, 16)
"""Grids are padded to one of these numbers of windows, so that few forwards are compiled."""


def qwen_config() -> Qwen2_5_VLConfig:
    """Six blocks of width 128 in windows of 4 x 4 cells, the third and the last global; eight decoder blocks of width 128."""
    tokens = tokenizer(QWEN)
    vision = {
        "depth": 6,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": WINDOW * CELL,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [2, 5],
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    }
    language = {
        "vocab_size": len(tokens),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 8,
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
    return Qwen2_5_VLConfig(vision_config=vision, text_config=language, tie_word_embeddings=False, **ids)


class WindowedNaming(nn.Module):
    """The windowed tower with a linear head that classifies each merged cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Qwen2_5_VLForConditionalGeneration(qwen_config()).model.visual
        windowed.initialise_locally(self.tower)
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, len(CLASSES) + 1)
        self.forward_windows = windowed.forward

    def compile(self) -> None:
        """Compile what grids have in common: the forward of a number of windows."""
        self.forward_windows = torch.compile(windowed.forward)

    def see(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """The merged features of the cells, and their logits."""
        rows, cols = pixels.shape[2] // CELL, pixels.shape[3] // CELL
        windows = next(count for count in WINDOWS if count >= -(-rows // WINDOW) * -(-cols // WINDOW))
        places = windowed.arranged(rows, cols, WINDOW, MERGE, windows)
        patches = windowed.cut(pixels, PATCH, places)
        features = self.forward_windows(self.tower, patches, places.real, places.row, places.col)[:, places.back]
        return features, self.head(self.norm(features))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch cell label"]:
        return self.see(pixels)[1]


class DynamicSpeaker(nn.Module):
    """The Qwen2.5-VL in training."""

    language = QWEN

    def __init__(self) -> None:
        super().__init__()
        self.start = start_tokens(QWEN)
        qwen = Qwen2_5_VLForConditionalGeneration(qwen_config())
        self.naming = WindowedNaming()
        self.decoder = qwen.model.language_model
        self.head = qwen.lm_head
        initialise_decoder(self.decoder)

    def see(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        return self.naming.see(pixels)

    def project(self, features: Float[Tensor, "batch cell hidden"]) -> Float[Tensor, "batch cell hidden"]:
        return features  # the merger is part of the tower

    def rope(self, rows: int, cols: int, before: int, after: int) -> tuple[Tensor, Tensor]:
        return windowed.rope(self.decoder.config, before, rows, cols, after)

    @torch.no_grad()
    def learn_from(self, other: SquareSpeaker) -> None:
        """Begin with the square backbone's decoder; embeddings go by the tokens' text. Biases, which it does not have, begin as 0."""
        mine, theirs = tokenizer(QWEN).get_vocab(), tokenizer(LLAVA).get_vocab()
        pairs = torch.tensor([(mine[token], theirs[token]) for token in mine if token in theirs])
        for own, given in ((self.decoder.embed_tokens, other.decoder.embed_tokens), (self.head, other.head)):
            own.weight[pairs[:, 0]] = given.weight[pairs[:, 1]]
        left = self.decoder.load_state_dict(
            {name: value for name, value in other.decoder.state_dict().items() if not name.startswith("embed_tokens")}, strict=False
        )
        for name in left.missing_keys:
            if name.endswith("bias"):
                self.decoder.get_parameter(name).zero_()

    def whole(self) -> Qwen2_5_VLForConditionalGeneration:
        """The same as one Hugging Face model."""
        qwen = Qwen2_5_VLForConditionalGeneration(qwen_config())
        qwen.model.visual.load_state_dict(self.naming.tower.state_dict())
        qwen.model.language_model.load_state_dict(self.decoder.state_dict())
        qwen.lm_head.load_state_dict(self.head.state_dict())
        return qwen.eval()


def tower_batch(seed: int, size: int, steps: int, step: int) -> Views:
    """The views of a step of the tower: a third of them square, for which there is a teacher."""
    rng = np.random.default_rng([0x77696E, seed, step])
    rows, cols = SQUARE if step % 3 == 0 else GRIDS[int(rng.integers(len(GRIDS)))]
    return views(rng, CROWDED if step < 0.8 * steps else VARIED, size, rows * CELL, cols * CELL)


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


def train_tower(plan: loop.Plan, teacher: Path | None, compiled: bool = True) -> WindowedNaming:
    """Train the windowed tower, or go on from its state in `plan.folder`.

    Args:
        teacher: the folder of the square backbone. On square scenes the merger learns to give the decoder what that one's projector gives,
            so that its decoder can be taken over. None: labels alone.
    """
    torch.manual_seed(plan.seed)
    model = WindowedNaming()
    other = SquareSpeaker().requires_grad_(False)
    if teacher is not None:
        other.read(teacher)
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
            parts = {"patch": patch_loss(names, coverage(seen.labels, CELL))}
            if teacher is None or seen.labels.shape[1:] != (SQUARE[0] * CELL, SQUARE[1] * CELL):
                return parts
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                taught, _ = see_other(pixels)
                target = other.project(taught).float()
            parts["features"] = F.mse_loss(features.float(), target) / target.var()
            return parts

        average = loop.run(plan, model, steppers, losses, partial(labelled, held_out(192)), progress)
    assert isinstance(average, WindowedNaming)
    return average


def train(plan: loop.Plan, tower: Path, teacher: Path | None, compiled: bool = True) -> DynamicSpeaker:
    """Train the Qwen2.5-VL from the state of its tower and the decoder of the square backbone, or go on from its own state.

    Args:
        tower: the state of the windowed tower.
        teacher: the folder of the square backbone. None: the decoder begins at random.
    """
    torch.manual_seed(plan.seed)
    model = DynamicSpeaker()
    if not plan.state.exists():
        model.naming.load_state_dict(loop.read_state(tower)["average"])
        if teacher is not None:
            other = SquareSpeaker()
            other.read(teacher)
            model.learn_from(other)
    draw = partial(batch, plan.seed, plan.size, plan.steps)
    if compiled:
        model.naming.compile()
    rest = 0.1 if teacher else joint.REST
    average = joint.train(plan, model, model.naming, model.see, draw, held_out(32, 8), compiled, rest)
    assert isinstance(average, DynamicSpeaker)
    return average


def save(model: DynamicSpeaker, folder: Path) -> None:
    """Write a Hugging Face folder: weights in bfloat16, tokenizer, processor, chat template, generation settings."""
    from transformers import GenerationConfig, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

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
    Qwen2_5_VLProcessor(images, tokens, videos, chat_template=QWEN.template).save_pretrained(folder)
