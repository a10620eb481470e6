"""LLaVA-like checkpoints of the real geometry with a small width: SigLIP at 384 pixels in patches of 14, of which 6 pixels are left over."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.families.tiny import VISION
from tests.processors.offline import Pair, model, template, tokenizer

EDGE, PATCH = 384, 14
ONEVISION_CANVASES = [[EDGE * rows, EDGE * cols] for rows in range(1, 7) for cols in range(1, 7)]
GRANITE_CANVASES = [[EDGE * rows, EDGE * cols] for rows in range(1, 11) for cols in range(1, 11) if rows * cols <= 10]
_SIZE = {"height": EDGE, "width": EDGE}
_HALF = (0.5, 0.5, 0.5)


def siglip(layers: int = 3) -> hf.SiglipVisionConfig:
    """The tower's configuration: real in its geometry, small in its width."""
    return hf.SiglipVisionConfig(**{**VISION, "image_size": EDGE, "patch_size": PATCH, "num_hidden_layers": layers})


def llava(strategy: str, tower: Any = None, extra: int = 0) -> Pair:
    """LLaVA-Interleave: SigLIP, the whole image as one square; or with another tower, which has `extra` tokens before its patches."""
    words, vision = tokenizer(), tower or siglip()
    processor = hf.LlavaProcessor(
        hf.SiglipImageProcessor(size={"height": vision.image_size, "width": vision.image_size}),
        words,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=extra,
        chat_template=template("<image>"),
    )
    ids = {"image_token_index": "<image>", "vision_feature_layer": -1, "vision_feature_select_strategy": strategy}
    return model("llava", words, vision_config=vision, **ids), processor


def llava_next(strategy: str = "full", layers: Any = (-5, -4, -3, -1)) -> Pair:
    """Granite Vision 3: SigLIP, tiles, the states of several of the tower's layers side by side."""
    words = tokenizer()
    images = hf.LlavaNextImageProcessor(
        size=_SIZE, crop_size=_SIZE, image_grid_pinpoints=GRANITE_CANVASES, image_mean=_HALF, image_std=_HALF
    )
    processor = hf.LlavaNextProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=0,
        chat_template=template("<image>"),
    )
    ids = {"image_token_index": "<image>", "vision_feature_layer": list(layers), "vision_feature_select_strategy": strategy}
    return model("llava_next", words, vision_config=siglip(5), image_grid_pinpoints=GRANITE_CANVASES, **ids), processor


def llava_onevision() -> Pair:
    """LLaVA-OneVision at its real size, with its real canvases."""
    words = tokenizer("<image>", "<video>")
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=_SIZE, image_grid_pinpoints=ONEVISION_CANVASES),
        words,
        hf.LlavaOnevisionVideoProcessor(),
        num_image_tokens=(EDGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
        vision_aspect_ratio="anyres_max_9",
    )
    ids = {"image_token_id": "<image>", "video_token_id": "<video>", "image_grid_pinpoints": ONEVISION_CANVASES}
    return model("llava_onevision", words, vision_config=siglip(), vision_aspect_ratio="anyres_max_9", **ids), processor
