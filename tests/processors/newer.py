"""Families that came with transformers 5.24, with the default settings of their processor classes."""

from __future__ import annotations

from functools import cache

import transformers as hf

from tests.families import newer, skip_if_lacking
from tests.families.tiny import model as tiny_model
from tests.processors.offline import Pair, model, smoothed, template, tokenizer
from tests.zoo import enliven


@cache
def hy_v4_vl() -> Pair:
    skip_if_lacking("hy_v4_vl")
    words = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
    images, videos = hf.HYV4VLImageProcessor(), hf.HYV4VLVideoProcessor()
    processor = hf.HYV4VLProcessor(images, words, videos, chat_template=template("<|image_pad|>"))
    tower = {"patch_size": images.patch_size, "max_image_size": 2048}
    return model("hy_v4_vl", words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>", vision_config=tower), processor


@cache
def apertus1p5() -> Pair:
    skip_if_lacking("apertus1p5")
    marks = ("image", "audio", "boi", "eoi", "image_wrapper", "eol", "boa", "eoa")
    words = tokenizer(**{f"{name}_token": f"<|{name}|>" for name in marks})
    sound = hf.WavTokenizerFeatureExtractor()
    processor = hf.Apertus1p5Processor(hf.Apertus1p5ImageProcessor(), sound, words, chat_template=template("<|image|>"))
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in ("image", "audio")}
    offsets = {"image_token_offset": len(words), "audio_token_offset": len(words) + 16}
    vision = {**newer.QUANTISED, "channel_multiplier": (1,) * 5, "attn_resolutions": ()}
    audio = {"model_type": "wavtokenizer_encoder", "codebook_size": 16, "codebook_dim": 32}
    small = tiny_model(
        "apertus1p5", text_config={"vocab_size": len(words) + 32}, vision_config=vision, audio_config=audio, **ids, **offsets
    )
    small = enliven(small)
    smoothed(small)
    return small, processor
