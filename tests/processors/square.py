"""Families that show an image once, as a square, with the default image settings of their processor classes or of a released checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers as hf

from tests.families import towers
from tests.processors import quantised, real
from tests.processors.native import GEMMA, native
from tests.processors.offline import Pair, model, smoothed, template, tokenizer

SQUARE: dict[str, Callable[[], Pair]] = {"llava/siglip": partial(real.llava, "full")}
"""Family -> its model of real geometry and its processor."""

square = partial(native, table=SQUARE)
IMAGE = {"image_token": "<image>"}


def clip_images(edge: int) -> Any:
    return hf.CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})


def siglip_images(edge: int) -> Any:
    return hf.SiglipImageProcessor(size={"height": edge, "width": edge})


for family in ("llava", "vipllava"):
    square(
        family,
        "LlavaProcessor",
        IMAGE,
        vision={"image_size": 336, "patch_size": 14},
        image_processor=lambda: clip_images(336),
        patch_size=lambda: 14,
        vision_feature_select_strategy=lambda: "default",
        num_additional_image_tokens=lambda: 1,
    )
square(
    "video_llava",
    "VideoLlavaProcessor",
    IMAGE | {"video_token": "<video>"},
    written="<image>",
    vision={"image_size": 224, "patch_size": 14},
    image_processor=hf.VideoLlavaImageProcessor,
    video_processor=hf.VideoLlavaVideoProcessor,
)
square(
    "paligemma",
    "PaliGemmaProcessor",
    IMAGE,
    grows=True,
    vision={"image_size": 224, "patch_size": 14},
    image_processor=lambda: hf.SiglipImageProcessor(size={"height": 224, "width": 224}, image_seq_length=256),
)
GEMMA3 = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
GEMMA3_IDS = {"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
for family, kind in (("gemma3", "Gemma3Processor"), ("shieldgemma2", "ShieldGemma2Processor")):
    square(
        family,
        kind,
        GEMMA3,
        written="<start_of_image>",
        vision={"image_size": 896, "patch_size": 14},
        ids={**GEMMA3_IDS, "mm_tokens_per_image": 256},
        image_processor=lambda: hf.Gemma3ImageProcessor(size={"height": 896, "width": 896}),
        **({"policy_definitions": lambda: {"one": "One question a prompt."}} if family == "shieldgemma2" else {}),
    )
_WITHOUT_TIMM: dict[str, Callable[[], Pair]] = {}
native(
    "gemma3n",
    "Gemma3nProcessor",
    GEMMA,
    written="<image_soft_token>",
    vision={"vocab_offset": 40000},
    ids={
        "vision_soft_tokens_per_image": 256,
        "text_config": {"vocab_size_per_layer_input": 33000},
        "audio_config": {"vocab_offset": 40008},
    },
    image_processor=lambda: siglip_images(768),
    feature_extractor=hf.Gemma3nAudioFeatureExtractor,
    table=_WITHOUT_TIMM,
)


def gemma3n() -> Pair:
    """A convolution of the same stride in the place of its tower."""
    with towers.without_timm(48):
        return _WITHOUT_TIMM["gemma3n"]()


SQUARE["gemma3n"] = gemma3n
JANUS = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
square(
    "janus",
    "JanusProcessor",
    JANUS,
    written="<image_placeholder>",
    vision={"image_size": 384, "patch_size": 16, "num_image_tokens": 576},
    image_processor=hf.JanusImageProcessor,
)
square(
    "deepseek_vl",
    "DeepseekVLProcessor",
    {"image_token": "<image_placeholder>"},
    vision={"image_size": 384, "patch_size": 16},
    image_processor=hf.DeepseekVLImageProcessor,
)
square(
    "deepseek_vl_hybrid",
    "DeepseekVLHybridProcessor",
    {"image_token": "<image_placeholder>"},
    vision={"image_size": 384, "patch_size": 16},
    ids={"high_res_vision_config": {"image_size": 1024, "patch_size": 16, "window_size": 14}},
    image_processor=hf.DeepseekVLHybridImageProcessor,
)
TOWER = {"image_size": 1024, "patch_size": 16, "window_size": 14, "global_attn_indexes": []}
for family, kind in (("got_ocr2", "GotOcr2"), ("pp_chart2table", "PPChart2Table")):
    square(
        family,
        f"{kind}Processor",
        {
            "start_token": "<|im_start|>",
            "end_token": "<|im_end|>",
            "img_start_token": "<img>",
            "img_end_token": "</img>",
            "image_token": "<imgpad>",
        },
        # PP-Chart2Table's chat template writes all the image tokens, its processor none.
        written="" if kind == "GotOcr2" else f"<img>{'<imgpad>' * 256}</img>",
        vision=TOWER,
        smooth=True,
        image_processor=(lambda: hf.GotOcr2ImageProcessor(size={"height": 1024, "width": 1024}))
        if kind == "GotOcr2"
        else hf.PPChart2TableImageProcessor,
    )


def git() -> Pair:
    """Its processor writes no image token: the model puts the image before the text."""
    words = tokenizer()
    return model("git", words, vision_config={"image_size": 224, "patch_size": 16}), hf.GitProcessor(clip_images(224), words)


SQUARE["git"] = git
SQUARE["chameleon"] = partial(quantised.chameleon, 512, [1, 1, 1, 1, 1])


def fast_vlm() -> Pair:
    """A ResNet of the same stride, 64, in the place of its tower."""
    words = tokenizer(image_token="<image>")
    processor = hf.LlavaProcessor(
        clip_images(1024), words, patch_size=64, vision_feature_select_strategy="full", chat_template=template("<image>")
    )
    stages = {
        "hidden_sizes": [8, 12, 16, 20, 24],
        "depths": [1] * 5,
        "stage_names": ["stem", *(f"stage{number}" for number in range(1, 6))],
    }
    built = model("fast_vlm", words, image_token_index="<image>", vision_config=stages)
    smoothed(built.model.vision_tower)
    return built, processor


SQUARE["fast_vlm"] = fast_vlm
