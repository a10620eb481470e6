"""Tiny models of `tests/families.py` with the processors of their families, built offline: real vocabulary, real image processing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers as hf

from probe.discover import discover
from tests import families, zoo

TILE, PATCH = 28, 7
Pair = tuple[Any, Any]


def template(image: str) -> str:
    """A chat template that writes this for a picture, and every text as it is."""
    return (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        + image
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def tokenizer(*tokens: str, **named: str) -> Any:
    """Mistral-7B's vocabulary with more special tokens; the named ones become attributes too, as `tokenizer.boi_token`."""
    made = copy.deepcopy(zoo.tokenizer())
    made.add_special_tokens({"additional_special_tokens": [*tokens, *named.values()]}, replace_extra_special_tokens=False)
    made._set_model_specific_special_tokens(named)
    return made


def model(name: str, words: Any, **ids: Any) -> Any:
    """The tiny model of a family, as wide as this vocabulary, with these of its configuration's values changed."""
    torch.manual_seed(0)
    small, _ = families.FAMILIES[name]()
    config = copy.deepcopy(small.config)
    config.get_text_config(decoder=True).vocab_size = len(words)
    for key, value in ids.items():
        setattr(config, key, words.convert_tokens_to_ids(value) if value in words.all_special_tokens else value)
    return _local(zoo.enliven(type(small)(config)))


def _local(made: Any) -> Any:
    """A tower whose patches mix little, as a trained one's do: what changes in one cell then moves that cell's token most."""
    for path in discover(made).vision_blocks:
        block = made.get_submodule(path).named_modules()
        *_, output = (part for name, part in block if "att" in name and isinstance(part, torch.nn.Linear))
        output.weight.data *= 0.05
    return made


def vipllava() -> Pair:
    words = tokenizer()
    images = hf.CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    processor = hf.LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return model("vipllava", words, image_token_index="<image>"), processor


def internvl() -> Pair:
    words = tokenizer(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>")
    images = hf.GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=6)
    processor = hf.InternVLProcessor(
        images, words, hf.InternVLVideoProcessor(), image_seq_length=4, chat_template=template("<IMG_CONTEXT>")
    )
    return model("internvl", words, image_token_id="<IMG_CONTEXT>"), processor


def _qwen(name: str, kind: str) -> Pair:
    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    size = {"shortest_edge": 64, "longest_edge": 64 * 30}
    images = hf.Qwen2VLImageProcessor(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    videos = hf.Qwen3VLVideoProcessor if kind == "Qwen3VL" else hf.Qwen2VLVideoProcessor
    processor = getattr(hf, f"{kind}Processor")(
        images, words, videos(), chat_template=template("<|vision_start|><|image_pad|><|vision_end|>")
    )
    return model(
        name,
        words,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    ), processor


def qwen2_vl() -> Pair:
    return _qwen("qwen2_vl", "Qwen2VL")


def qwen2_5_vl() -> Pair:
    return _qwen("qwen2_5_vl", "Qwen2_5_VL")


def qwen3_vl() -> Pair:
    return _qwen("qwen3_vl", "Qwen3VL")


def glm4v() -> Pair:
    words = tokenizer("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    images = hf.Glm4vImageProcessor(patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 128, "longest_edge": 3840})
    processor = hf.Glm4vProcessor(
        images, words, hf.Glm4vVideoProcessor(), chat_template=template("<|begin_of_image|><|image|><|end_of_image|>")
    )
    return model(
        "glm4v",
        words,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        image_start_token_id="<|begin_of_image|>",
        image_end_token_id="<|end_of_image|>",
        video_start_token_id="<|begin_of_video|>",
        video_end_token_id="<|end_of_video|>",
    ), processor


def paligemma() -> Pair:
    words = tokenizer(image_token="<image>")
    images = hf.SiglipImageProcessor(size={"height": TILE, "width": TILE}, image_seq_length=16)
    processor = hf.PaliGemmaProcessor(images, words, chat_template=template("<image>"))
    return model("paligemma", words, image_token_index="<image>"), processor


def gemma3() -> Pair:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    images = hf.Gemma3ImageProcessor(size={"height": TILE, "width": TILE})
    processor = hf.Gemma3Processor(images, words, chat_template=template("<start_of_image>"), image_seq_length=4)
    ids = {"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
    return model("gemma3", words, **ids), processor


def _idefics3(name: str, images: Any, kind: str) -> Pair:
    places = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    words = tokenizer(
        "<image>", "<global-img>", *places, fake_image_token="<fake_token_around_image>", end_of_utterance_token="<end_of_utterance>"
    )
    processor = getattr(hf, f"{kind}Processor")
    options = {"image_seq_len": 4, "chat_template": template("<image>")}
    if kind == "SmolVLM":
        options["video_processor"] = hf.SmolVLMVideoProcessor()
    made = processor(images, words, **options)
    return model(name, words, image_token_id="<image>"), made


def idefics3() -> Pair:
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 4 * TILE}, max_image_size={"longest_edge": TILE})
    return _idefics3("idefics3", images, "Idefics3")


def smolvlm() -> Pair:
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 3 * TILE}, max_image_size={"longest_edge": TILE})
    return _idefics3("smolvlm", images, "SmolVLM")


def _pixtral(name: str, merge: int, longest_edge: int) -> Pair:
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = hf.PixtralImageProcessor(size={"longest_edge": longest_edge}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.PixtralProcessor(images, words, patch_size=PATCH, spatial_merge_size=merge, chat_template=template("[IMG]"))
    return model(name, words, image_token_index="[IMG]"), processor


def mistral3() -> Pair:
    return _pixtral("mistral3", 2, 84)


def pixtral() -> Pair:
    return _pixtral("pixtral", 1, 42)


def llava_onevision() -> Pair:
    words = tokenizer("<image>", "<video>")
    canvases = [[rows * TILE, cols * TILE] for rows in range(1, 5) for cols in range(1, 5)]
    images = hf.LlavaOnevisionImageProcessor(size={"height": TILE, "width": TILE}, image_grid_pinpoints=canvases)
    processor = hf.LlavaOnevisionProcessor(
        images,
        words,
        hf.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
        vision_aspect_ratio="anyres_max_4",
    )
    ids = {"image_token_id": "<image>", "video_token_id": "<video>", "image_grid_pinpoints": canvases}
    return model("llava_onevision", words, vision_aspect_ratio="anyres_max_4", **ids), processor


def aya_vision() -> Pair:
    words = tokenizer(
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE_GLOBAL",
        *(f"TILE_{i}" for i in range(1, 9)),
        "TILE",
    )
    images = hf.GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=6, crop_to_patches=True)
    processor = hf.AyaVisionProcessor(
        images, words, patch_size=PATCH, img_size=TILE, downsample_factor=2, chat_template=template("<image>")
    )
    return model("aya_vision", words, image_token_index="<|IMG_PATCH|>"), processor


def cohere2_vision() -> Pair:
    words = tokenizer(
        boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>", image_token="<|IMG_PATCH|>", img_line_break_token="<|IMG_LINE_BREAK|>"
    )
    images = hf.Cohere2VisionImageProcessor(size={"height": TILE, "width": TILE}, max_patches=6, patch_size=2)
    processor = hf.Cohere2VisionProcessor(images, words, chat_template=template("<|IMG_PATCH|>"))
    return model("cohere2_vision", words, image_token_id="<|IMG_PATCH|>"), processor


def ovis2() -> Pair:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    images = hf.Ovis2ImageProcessor(size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=6)
    processor = hf.Ovis2Processor(images, words, chat_template=template("<image>"), image_seq_length=4)
    ids = words.convert_tokens_to_ids(marks)
    return model("ovis2", words, image_token_id="<IMG_ATOM>", visual_indicator_token_ids=ids, vocab_size=len(words)), processor


def lfm2_vl() -> Pair:
    places = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 5) for col in range(1, 5)]
    words = tokenizer(
        *places,
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail="<|img_thumbnail|>",
    )
    images = hf.Lfm2VlImageProcessor(
        encoder_patch_size=PATCH, tile_size=TILE, min_image_tokens=4, max_image_tokens=8, max_tiles=6, max_pixels_tolerance=1.0
    )
    processor = hf.Lfm2VlProcessor(images, words, chat_template=template("<image>"))
    return model("lfm2_vl", words, image_token_id="<image>"), processor


FAMILIES: dict[str, Callable[[], Pair]] = {
    build.__name__: build
    for build in (
        vipllava,
        internvl,
        aya_vision,
        cohere2_vision,
        ovis2,
        lfm2_vl,
        idefics3,
        smolvlm,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        glm4v,
        mistral3,
        pixtral,
        paligemma,
        gemma3,
        llava_onevision,
    )
}


@cache
def build(name: str) -> Pair:
    """The model and processor of a family."""
    return FAMILIES[name]()
