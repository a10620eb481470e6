"""Processors of the families whose image tokens correspond to no cells of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf

from tests.processors.native import native
from tests.processors.offline import PATCH, TILE, Pair, listed, model, template, tokenizer

SQUARE = {"height": TILE, "width": TILE}


@listed
def idefics2() -> Pair:
    words = tokenizer(image_token="<image>", image_boundary_token="<fake_token_around_image>", end_of_utterance_token="<end_of_utterance>")
    images = hf.Idefics2ImageProcessor(size={"shortest_edge": 2 * PATCH, "longest_edge": 4 * PATCH})
    processor = hf.Idefics2Processor(images, words, image_seq_len=4, chat_template=template("<image>"))
    return model("idefics2", words, image_token_id="<image>"), processor


def _blip(name: str, kind: str, *tokenizers: Any) -> Pair:
    words = tokenizer("<image>")
    processor = getattr(hf, f"{kind}Processor")(hf.BlipImageProcessor(size=SQUARE), words, *tokenizers, num_query_tokens=4)
    return model(name, words, image_token_index="<image>", qformer_config={"vocab_size": len(words)}), processor


@listed
def blip_2() -> Pair:
    return _blip("blip-2", "Blip2")


@listed
def instructblip() -> Pair:
    return _blip("instructblip", "InstructBlip", tokenizer())


@listed
def mllama() -> Pair:
    words = tokenizer("<|python_tag|>", image_token="<|image|>")
    images = hf.MllamaImageProcessor(size=SQUARE, max_image_tiles=4)
    processor = hf.MllamaProcessor(images, words, chat_template="{{ bos_token }}" + template("<|image|>"))
    canvases = [[rows, cols] for rows in range(1, 5) for cols in range(1, 5) if rows * cols <= 4]
    tiles = {"max_num_tiles": 4, "supported_aspect_ratios": canvases}
    return model("mllama", words, image_token_index="<|image|>", vision_config=tiles), processor


RESAMPLED: dict[str, Callable[[], Pair]] = {}
"""Families of learned queries, with the default image settings of their processor classes."""

native(
    "aria",
    "AriaProcessor",
    {"image_token": "<|img|>"},
    vision={"image_size": 980, "patch_size": 14},
    ids={"projector_patch_to_query_dict": {1225: 128, 4900: 256}, "max_value_projector_patch_to_query_dict": 256},
    table=RESAMPLED,
    image_processor=hf.AriaImageProcessor,
)
native(
    "deepseek_ocr2",
    "DeepseekOcr2Processor",
    {"image_token": "<image>"},
    vision={"sam_config": {"image_size": 1024, "patch_size": 16}, "encoder_config": {"max_position_embeddings": 1024}},
    table=RESAMPLED,
    image_processor=lambda: hf.DeepseekOcr2ImageProcessor(),
)
