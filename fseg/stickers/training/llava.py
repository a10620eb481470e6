"""The square backbone: a CLIP tower, an MLP projector and a Llama decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fseg.errors import InvalidOption
from fseg.stickers.training import joint, loop
from fseg.stickers.training.text import LLAVA, start_tokens, tokenizer
from fseg.stickers.training.tower import CELL, SIDE, Naming, held_out, tower_config
from fseg.stickers.training.views import PLAIN, VARIED, Views, views
from fseg.worlds.training import fast
from fseg.worlds.training.speech import initialise_decoder

HIDDEN = 128
CELLS = (SIDE // CELL) ** 2


def llava_config() -> LlavaConfig:
    """Eight blocks of width 128 on the tower's last hidden states; the embeddings are also the head."""
    tokens = tokenizer(LLAVA)
    language = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
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
        image_token_index=tokens.convert_tokens_to_ids(LLAVA.image),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=CELLS,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )


class SquareSpeaker(nn.Module):
    """The LLaVA in training."""

    language = LLAVA
    cell = CELL

    def __init__(self) -> None:
        super().__init__()
        self.start = start_tokens(LLAVA)
        llava = LlavaForConditionalGeneration(llava_config())
        self.naming = Naming()
        self.projector = llava.model.multi_modal_projector
        self.decoder = llava.model.language_model
        self.head = llava.lm_head
        initialise_decoder(self.decoder)
        for layer in (self.projector.linear_1, self.projector.linear_2):
            nn.init.normal_(layer.weight, std=layer.weight.shape[1] ** -0.5)

    def see(self, pixels: Float[Tensor, "batch 3 side side"]) -> tuple[Tensor, Tensor]:
        return self.naming.see(pixels)

    def project(self, features: Float[Tensor, "batch cell feature"]) -> Float[Tensor, "batch cell hidden"]:
        return fast.projector(self.projector, features)

    def rope(self, rows: int, cols: int, before: int, after: int) -> None:
        return None

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """Take the weights of a folder that `save` wrote. It has no head that names cells: that stays as it is.

        Raises:
            InvalidOption: there is no such folder.
        """
        if not folder.is_dir():
            raise InvalidOption(f"{folder} is missing: train the stage 'llava' first.")
        llava = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tower = llava.model.vision_tower
        self.naming.tower.load_state_dict(getattr(tower, "vision_model", tower).state_dict())
        self.projector.load_state_dict(llava.model.multi_modal_projector.state_dict())
        self.decoder.load_state_dict(llava.model.language_model.state_dict())
        self.head.load_state_dict(llava.lm_head.state_dict())

    def whole(self) -> LlavaForConditionalGeneration:
        """The same as one Hugging Face model."""
        llava = LlavaForConditionalGeneration(llava_config())
        tower = llava.model.vision_tower
        getattr(tower, "vision_model", tower).load_state_dict(self.naming.tower.state_dict())
        llava.model.multi_modal_projector.load_state_dict(self.projector.state_dict())
        llava.model.language_model.load_state_dict(self.decoder.state_dict())
        llava.lm_head.load_state_dict(self.head.state_dict())
        return llava.eval()


def batch(seed: int, size: int, steps: int, step: int) -> Views:
    """The views of a step: varied ones at first, then half of them as the world has them."""
    style = PLAIN if step > 0.5 * steps and step % 2 else VARIED
    return views(np.random.default_rng([0x6C6C61, seed, step]), style, size, SIDE, SIDE)


def train(plan: loop.Plan, tower: Path, compiled: bool = True) -> SquareSpeaker:
    """Train the LLaVA from the state of its tower, or go on from its own state in `plan.folder`."""
    torch.manual_seed(plan.seed)
    model = SquareSpeaker()
    if not plan.state.exists():
        model.naming.load_state_dict(loop.read_state(tower)["average"])
    draw = partial(batch, plan.seed, plan.size, plan.steps)
    tests = [part for each in held_out(32) for part in _halves(each)]
    see = torch.compile(model.see, disable=not compiled)
    average = joint.train(plan, model, model.naming, see, draw, tests, compiled)
    assert isinstance(average, SquareSpeaker)
    return average


def _halves(test: Views, size: int = 8) -> list[Views]:
    """The same in batches of 8: thirty questions are asked about each scene."""
    return [
        Views(test.images[k : k + size], test.labels[k : k + size], test.described[k : k + size]) for k in range(0, len(test.labels), size)
    ]


def save(model: SquareSpeaker, folder: Path) -> None:
    """Write a Hugging Face folder: weights in bfloat16, tokenizer, processor, chat template, generation settings."""
    from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor

    tokens = tokenizer(LLAVA)
    side = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False, resample=3),
        tokenizer=tokens,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        chat_template=LLAVA.template,
        image_token=LLAVA.image,
        num_additional_image_tokens=1,
    )
    llava = model.whole().to(torch.bfloat16)
    llava.generation_config = GenerationConfig(
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        do_sample=False,
        max_new_tokens=64,
    )
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
