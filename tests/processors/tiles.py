"""Processors that cut an image into tiles."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.processors.offline import PATCH, TILE, Pair, listed, model, template, tokenizer


@listed
def internvl(tile: int = TILE) -> Pair:
    words = tokenizer(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>")
    images = hf.GotOcr2ImageProcessor(size={"height": tile, "width": tile}, max_patches=6)
    processor = hf.InternVLProcessor(
        images, words, hf.InternVLVideoProcessor(), image_seq_length=4, chat_template=template("<IMG_CONTEXT>")
    )
    return model("internvl", words, tile=tile, image_token_id="<IMG_CONTEXT>"), processor


@listed
def aya_vision(tile: int = TILE) -> Pair:
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
    images = hf.GotOcr2ImageProcessor(size={"height": tile, "width": tile}, max_patches=6, crop_to_patches=True)
    processor = hf.AyaVisionProcessor(
        images, words, patch_size=PATCH, img_size=tile, downsample_factor=2, chat_template=template("<image>")
    )
    return model("aya_vision", words, tile=tile, image_token_index="<|IMG_PATCH|>"), processor


@listed
def cohere2_vision(tile: int = TILE) -> Pair:
    words = tokenizer(
        boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>", image_token="<|IMG_PATCH|>", img_line_break_token="<|IMG_LINE_BREAK|>"
    )
    images = hf.Cohere2VisionImageProcessor(size={"height": tile, "width": tile}, max_patches=6, patch_size=2)
    processor = hf.Cohere2VisionProcessor(images, words, chat_template=template("<|IMG_PATCH|>"))
    return model("cohere2_vision", words, tile=tile, image_token_id="<|IMG_PATCH|>"), processor


@listed
def ovis2(tile: int = TILE) -> Pair:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    images = hf.Ovis2ImageProcessor(size={"height": tile, "width": tile}, crop_to_patches=True, max_patches=6)
    processor = hf.Ovis2Processor(images, words, chat_template=template("<image>"), image_seq_length=4)
    ids = words.convert_tokens_to_ids(marks)
    return model(
        "ovis2",
        words,
        tile=tile,
        image_token_id="<IMG_ATOM>",
        visual_indicator_token_ids=ids,
        vocab_size=len(words),
        tie_word_embeddings=False,
    ), processor


@listed
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


def _idefics3(name: str, images: Any, kind: str, tile: int) -> Pair:
    places = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    words = tokenizer(
        "<image>", "<global-img>", *places, fake_image_token="<fake_token_around_image>", end_of_utterance_token="<end_of_utterance>"
    )
    processor = getattr(hf, f"{kind}Processor")
    options = {"image_seq_len": 4, "chat_template": template("<image>")}
    if kind == "SmolVLM":
        options["video_processor"] = hf.SmolVLMVideoProcessor()
    built = processor(images, words, **options)
    return model(name, words, tile=tile, image_token_id="<image>"), built


@listed
def idefics3(tile: int = TILE) -> Pair:
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 4 * tile}, max_image_size={"longest_edge": tile})
    return _idefics3("idefics3", images, "Idefics3", tile)


@listed
def smolvlm(tile: int = TILE) -> Pair:
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 3 * tile}, max_image_size={"longest_edge": tile})
    return _idefics3("smolvlm", images, "SmolVLM", tile)


@listed
def llava_onevision(tile: int = TILE) -> Pair:
    words = tokenizer("<image>", "<video>")
    canvases = [[rows * tile, cols * tile] for rows in range(1, 5) for cols in range(1, 5)]
    images = hf.LlavaOnevisionImageProcessor(size={"height": tile, "width": tile}, image_grid_pinpoints=canvases)
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
    return model("llava_onevision", words, tile=tile, vision_aspect_ratio="anyres_max_4", **ids), processor


@listed
def llama4(tile: int = TILE) -> Pair:
    """Its own chat template asks for headers of other special tokens."""
    marks = ["<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
    words = tokenizer("<|image|>", *marks)
    images = hf.Llama4ImageProcessor(size={"height": tile, "width": tile}, max_patches=6)
    processor = hf.Llama4Processor(images, words, patch_size=PATCH, chat_template=template("<|image|>"))
    warmer = {"floor_scale": 16}  # queries beyond so many tokens have another temperature
    return model("llama4", words, tile=tile, image_token_index="<|patch|>", text_config=warmer), processor


@listed
def perception_lm() -> Pair:
    words = tokenizer(image_token="<|image|>", video_token="<|video|>")
    images = hf.PerceptionLMImageProcessor(tile_size=TILE, max_num_tiles=6)
    processor = hf.PerceptionLMProcessor(
        hf.PerceptionLMVideoProcessor(), images, words, patch_size=PATCH, chat_template=template("<|image|>")
    )
    return model("perception_lm", words, image_token_id="<|image|>"), processor
