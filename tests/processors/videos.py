"""Families that take videos, with the default settings of their video processors: real patches and frames, as narrow as all tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers as hf
from packaging.version import Version

from tests.processors import newer, real
from tests.processors.encoded import ENCODED
from tests.processors.native import GEMMA, NATIVE
from tests.processors.offline import Pair, model, tokenizer
from tests.processors.tiled import TILED

VIDEOS: dict[str, Callable[[], Pair]] = {}
"""Family -> its model of real geometry and its processor."""

QWEN = "<|vision_start|><video><|vision_end|>\n{question}"
GLM_VIDEO = "<|begin_of_video|><video><|end_of_video|>\n{question}"
WRITTEN = dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "cosmos3_omni", "cohere_compass"), QWEN
)
WRITTEN |= dict.fromkeys(("exaone4_5", "hyperclovax_vision_v2", "lfm3_vl", "qwen4_exp", "cosmos3_edge"), QWEN)
WRITTEN |= dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga"), GLM_VIDEO)
WRITTEN["cohere_compass"] = QWEN.upper().replace("<VIDEO>", "<video>").replace("{QUESTION}", "{question}")
"""What a released chat template writes around a video, where that is more than its token."""


def template(name: str) -> str:
    return WRITTEN.get(name, "<video>\n{question}")


def of_images(name: str, **settings: Any) -> None:
    """List a family of `native` or `tiled`, with these settings of its video processor."""

    def build() -> Pair:
        small, processor = (NATIVE.get(name) or TILED[name])()
        for key, value in settings.items():
            setattr(processor.video_processor, key, value)
        return small, processor

    VIDEOS[name] = build


for family in ("qwen2_vl", "qwen2_5_vl", "exaone4_5", "hyperclovax_vision_v2", "lfm3_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"):
    of_images(family)
for family in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "cosmos3_omni"):
    of_images(family, patch_size=14)  # as that of the images
for family in ("cohere_compass", "glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga", "video_llama_3", "muse_glimmer", "muse_spark"):
    of_images(family)
of_images("dots3_note", temporal_patch_size=1)
of_images("ernie4_5_vl_moe", draw_on_frames=False)  # it writes the time on each frame, in a font that is downloaded

of_images("molmo2")


def listed(build: Callable[[], Pair]) -> Callable[[], Pair]:
    VIDEOS[build.__name__] = build
    return build


@listed
def nemotron_h_omni() -> Pair:
    if Version(hf.__version__) < Version("5.24"):
        pytest.skip(
            f"the forward of transformers {hf.__version__} takes no video of nemotron_h_omni: it joins a tensor as if it were a list"
        )
    small, processor = NATIVE["nemotron_h_omni"]()
    half = [0.5, 0.5, 0.5]  # a checkpoint's own; the class has none
    processor.video_processor.norm_mean = processor.video_processor.norm_std = half
    return small, processor


VIDEOS["llava_onevision"] = real.llava_onevision
VIDEOS["hy_v4_vl"] = newer.hy_v4_vl
for family in ("cosmos3_edge", "minimax_m3_vl", "qwen4_exp"):
    VIDEOS[family] = ENCODED[family]


def _frames(kind: str, edge: int) -> Any:
    size = {"height": edge, "width": edge}
    return getattr(hf, f"{kind}VideoProcessor")(size={"shortest_edge": edge}, crop_size=size)


@listed
def llava_next_video() -> Pair:
    _small, processor = ENCODED["llava_next_video"]()
    processor.patch_size, processor.video_processor = 14, _frames("LlavaNextVideo", 336)
    words = processor.tokenizer
    ids = {"image_token_index": "<image>", "video_token_index": "<video>", "image_token_id": "<image>", "video_token_id": "<video>"}
    return model("llava_next_video", words, vision_config={"image_size": 336, "patch_size": 14}, **ids), processor


@listed
def video_llava() -> Pair:
    _, processor = ENCODED["video_llava"]()
    processor.patch_size, processor.video_processor = 14, _frames("VideoLlava", 224)
    ids = {"image_token_index": "<image>", "video_token_index": "<video>", "image_token_id": "<image>", "video_token_id": "<video>"}
    return model("video_llava", processor.tokenizer, vision_config={"image_size": 224, "patch_size": 14}, **ids), processor


@listed
def internvl() -> Pair:
    words = tokenizer(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>")
    size = {"height": 448, "width": 448}
    processor = hf.InternVLProcessor(hf.GotOcr2ImageProcessor(size=size), words, hf.InternVLVideoProcessor(size=size), image_seq_length=256)
    vision = {"image_size": (448, 448), "patch_size": (14, 14)}
    return model("internvl", words, vision_config=vision, image_token_id="<IMG_CONTEXT>"), processor


@listed
def smolvlm() -> Pair:
    words = tokenizer(
        "<image>", "<global-img>", "<video>", fake_image_token="<fake_token_around_image>", end_of_utterance_token="<end_of_utterance>"
    )
    processor = hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(), words, hf.SmolVLMVideoProcessor(), image_seq_len=169)
    return model("smolvlm", words, vision_config={"image_size": 364, "patch_size": 14}, image_token_id="<image>"), processor


@listed
def perception_lm() -> Pair:
    words = tokenizer(image_token="<|image|>", video_token="<|video|>")
    processor = hf.PerceptionLMProcessor(
        hf.PerceptionLMVideoProcessor(), hf.PerceptionLMImageProcessor(), words, patch_size=14, pooling_ratio=2
    )
    vision = {"image_size": 448, "patch_size": 14}
    return model("perception_lm", words, vision_config=vision, image_token_id="<|image|>", video_token_id="<|video|>"), processor


def _gemma4(name: str, kind: str, vision: dict[str, Any], **text: Any) -> Pair:
    tokens = GEMMA | {"video_token": "<|video|>"}
    words = tokenizer(**tokens)
    parts = {part: getattr(hf, f"{kind}{made}")() for part, made in _GEMMA_PARTS.items()}
    processor = getattr(hf, f"{kind}Processor")(tokenizer=words, **parts)
    ids = {f"{key}_id": token for key, token in tokens.items() if key in ("image_token", "video_token", "audio_token")}
    return model(name, words, vision_config={"patch_size": 16, **vision}, **ids, **text), processor


_GEMMA_PARTS = {"image_processor": "ImageProcessor", "video_processor": "VideoProcessor", "feature_extractor": "AudioFeatureExtractor"}


@listed
def gemma4() -> Pair:
    vision = {"position_embedding_size": 10240, "pooling_kernel_size": 3}
    return _gemma4("gemma4", "Gemma4", vision, text_config={"vocab_size_per_layer_input": 33000})


@listed
def gemma4_unified() -> Pair:
    return _gemma4("gemma4_unified", "Gemma4Unified", {"pooling_kernel_size": 3, "mm_posemb_size": 1120})
