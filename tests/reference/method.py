"""The chain of section 3.1: an image and classes in, what each step makes of them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tests.reference import answers, masks, refinement, response
from tests.reference.response import Floats, Mask


@dataclass(frozen=True)
class Settings:
    """Section 4.2's numbers, and those that the paper does not give [open]."""

    layers: tuple[int, int]  # l_s and l_e, both included
    beta: float
    alpha: float = 0.75
    k: int = 10  # [open]
    epsilon: float = 1e-6  # [open]
    smallest: int = 2  # cells of a valid component [open]


@dataclass(frozen=True)
class ClassMaps:
    """What is known of one class before the classes meet; maps are (row, col)."""

    name: str
    sentences: answers.Sentences
    distance: Floats  # D~, Eq. 3
    confident: Floats  # D, Eq. 5
    attention: Floats | None  # A_v, Eq. 6; None without a second sentence
    attention_mask: Mask  # M_A, Eq. 7
    response: Floats  # D_f, Eq. 8
    vision: Floats  # F_v, (cell, feature)


@dataclass(frozen=True)
class Refined:
    """What Eq. 9 to 12 make of one class when all are known, and its prompts: no point and no box if M_r is empty."""

    region: Mask  # 1[M^_f = c], Eq. 9
    prototype_mask: Mask  # M_v, Eq. 11
    refined: Mask  # M_r, Eq. 12
    components: list[NDArray[np.int64]]
    points: Floats
    box: Floats | None


@dataclass(frozen=True)
class Segmented:
    """All of an image; the dictionaries hold the classes that are present."""

    answers: dict[str, answers.Answer]
    maps: dict[str, ClassMaps]
    refined: dict[str, Refined]
    masks: dict[str, tuple[Floats, float]]  # M_sam, Eq. 13: logits (height, width), and the predicted IoU
    labels: NDArray[np.int64]  # 0 is the background, i + 1 the class i


def open_llava(folder: Path) -> answers.Llava:
    """A checkpoint folder under eager attention, in double precision: in float32, D~ is off by up to 1e-6 by itself."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    return answers.Llava(model, AutoProcessor.from_pretrained(folder))


def open_sam(file: Path) -> Any:
    """The embedded SAM as its model card describes it: 4 blocks of 128 at 192 pixels, all global, and a decoder of width 64."""
    encoder = ImageEncoderViT(
        img_size=192, patch_size=8, embed_dim=128, depth=4, num_heads=2, out_chans=64, use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), global_attn_indexes=(0, 1, 2, 3),
    )  # fmt: skip
    prompt_encoder = PromptEncoder(embed_dim=64, image_embedding_size=(24, 24), input_image_size=(192, 192), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=64, transformer=TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=256, num_heads=8), iou_head_hidden_dim=64
    )
    sam = Sam(encoder, prompt_encoder, decoder, pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
    weights = {name: value.float() for name, value in load_file(file).items()}
    missing, unknown = sam.load_state_dict(weights, strict=False)
    assert set(missing) <= {"pixel_mean", "pixel_std"}
    assert not unknown
    return SamPredictor(sam.eval())


def class_maps(outputs: answers.Outputs, sentences: answers.Sentences, name: str, grid: tuple[int, int], settings: Settings) -> ClassMaps:
    """Eq. 3 to 8 for one class."""
    first, last = settings.layers
    band = slice(first, last + 1)
    distance = response.eq3_distance(outputs.image_states[band], outputs.answer_states[band, sentences.class_token])
    confident = response.eq5_confident(distance, response.eq4_threshold(distance, settings.alpha, settings.beta))
    attention, attention_mask = None, np.ones(len(distance), dtype=bool)  # without a description nothing is suppressed [open]
    if sentences.description:
        rows = outputs.attention[:, sentences.description].reshape(-1, len(distance))
        attention = response.eq6_attention(rows, response.top_k(rows, settings.k, grid))
        attention_mask = response.eq7_attention_mask(attention)
    return ClassMaps(
        name, sentences, distance.reshape(grid), confident.reshape(grid), None if attention is None else attention.reshape(grid),
        attention_mask.reshape(grid), response.eq8_response(confident, attention_mask).reshape(grid), outputs.vision,
    )  # fmt: skip


def refine(found: Sequence[ClassMaps], size: tuple[int, int], settings: Settings) -> dict[str, Refined]:
    """Eq. 9 to 12 and the prompts for all classes of an image of a (height, width)."""
    responses = [one.response for one in found]
    background = response.background_response(responses, settings.alpha, settings.beta)
    guidance = refinement.eq9_guidance(background, responses)
    made = {}
    for number, one in enumerate(found, start=1):
        region = guidance == number
        prototypes = refinement.eq10_prototypes(one.vision, region.ravel(), settings.epsilon)
        prototype_mask = refinement.eq11_prototype_mask(one.vision, *prototypes).reshape(region.shape)
        refined = refinement.eq12_refined(prototype_mask, region)
        components = refinement.valid_components(refined, settings.smallest)
        points = refinement.points(components, refined.shape, size)
        box = refinement.box(refined, size) if refined.any() else None
        made[one.name] = Refined(region, prototype_mask, refined, components, points, box)
    return made


def segment(llava: answers.Llava, predictor: Any, image: Image.Image, classes: Sequence[str], settings: Settings) -> Segmented:
    """The whole method on one image."""
    side = llava.model.config.vision_config.image_size // llava.model.config.vision_config.patch_size
    size = (image.height, image.width)
    given = {name: answers.eq1_answer(llava, image, name) for name in classes}
    maps = {}
    for name, answer in given.items():
        if answers.is_yes(answer.text):
            outputs, sentences = answers.eq1_outputs(llava, image, answer), answers.eq2_sentences(llava, answer, name)
            maps[name] = class_maps(outputs, sentences, name, (side, side), settings)
    refined = refine(list(maps.values()), size, settings) if maps else {}
    prompted = {name: (one.points, one.box) for name, one in refined.items() if one.box is not None}
    found = dict(zip(prompted, masks.eq13_masks(predictor, image, list(prompted.values())), strict=True))
    labels = masks.label_map(
        [logits for logits, _ in found.values()],
        [maps[name].distance for name in found],
        [classes.index(name) + 1 for name in found],
        size,
    )
    return Segmented(given, maps, refined, found, labels)
