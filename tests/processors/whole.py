"""Processors that show an image once."""

from __future__ import annotations

import transformers as hf

from tests.processors import quantised
from tests.processors.offline import PATCH, TILE, Pair, listed, model, smoothed, template, tokenizer


@listed
def vipllava(tile: int = TILE) -> Pair:
    words = tokenizer()
    images = hf.CLIPImageProcessor(size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile})
    processor = hf.LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return model("vipllava", words, tile=tile, image_token_index="<image>"), processor


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


@listed
def qwen2_vl() -> Pair:
    return _qwen("qwen2_vl", "Qwen2VL")


@listed
def qwen2_5_vl() -> Pair:
    return _qwen("qwen2_5_vl", "Qwen2_5_VL")


@listed
def qwen3_vl() -> Pair:
    return _qwen("qwen3_vl", "Qwen3VL")


@listed
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


def _pixtral(name: str, merge: int, longest_edge: int) -> Pair:
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = hf.PixtralImageProcessor(size={"longest_edge": longest_edge}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.PixtralProcessor(images, words, patch_size=PATCH, spatial_merge_size=merge, chat_template=template("[IMG]"))
    return model(name, words, image_token_index="[IMG]"), processor


@listed
def mistral3() -> Pair:
    return _pixtral("mistral3", 2, 84)


@listed
def pixtral() -> Pair:
    return _pixtral("pixtral", 1, 42)


@listed
def paligemma(tile: int = TILE) -> Pair:
    words = tokenizer(image_token="<image>", grows=True)
    images = hf.SiglipImageProcessor(size={"height": tile, "width": tile}, image_seq_length=16)
    processor = hf.PaliGemmaProcessor(images, words, chat_template=template("<image>"))
    return model("paligemma", words, tile=tile, image_token_index="<image>"), processor


@listed
def gemma3(tile: int = TILE) -> Pair:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    images = hf.Gemma3ImageProcessor(size={"height": tile, "width": tile})
    processor = hf.Gemma3Processor(images, words, chat_template=template("<start_of_image>"), image_seq_length=4)
    ids = {"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
    return model("gemma3", words, tile=tile, **ids), processor


@listed
def janus() -> Pair:
    words = tokenizer(image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    images = hf.JanusImageProcessor(size={"height": 2 * TILE, "width": 2 * TILE}, min_size=PATCH)
    processor = hf.JanusProcessor(images, words, chat_template=template("<image_placeholder>"), num_image_tokens=64)
    tower = {"image_size": 2 * TILE, "num_image_tokens": 64}
    return model("janus", words, image_token_id="<image_placeholder>", vision_config=tower), processor


@listed
def fast_vlm() -> Pair:
    """A ResNet of stride 8 in the place of its tower."""
    words = tokenizer(image_token="<image>")
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = hf.LlavaProcessor(images, words, patch_size=8, vision_feature_select_strategy="full", chat_template=template("<image>"))
    built = model("fast_vlm", words, image_token_index="<image>")
    smoothed(built.model.vision_tower)
    return built, processor


@listed
def got_ocr2() -> Pair:
    """The processor always asks for 256 tokens an image."""
    words = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    processor = hf.GotOcr2Processor(hf.GotOcr2ImageProcessor(size={"height": 128, "width": 128}), words)
    tower = {"image_size": 128, "patch_size": 2, "window_size": 8, "global_attn_indexes": []}
    built = model("got_ocr2", words, image_token_index="<imgpad>", vision_config=tower)
    smoothed(built.model)
    return built, processor


@listed
def chameleon() -> Pair:
    return quantised.chameleon(16, [1, 1, 2])
