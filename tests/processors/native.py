"""Families that see an image at its own aspect ratio, with the default image settings of their processor classes.

The models are as narrow as all tiny models, but a patch has its real size, and an image as many patches as in a released checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf

from tests.families import skip_if_lacking
from tests.processors import quantised
from tests.processors.offline import Pair, model, smoothed, template, tokenizer

NATIVE: dict[str, Callable[[], Pair]] = {}
"""Family -> its model of real geometry and its processor."""

QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
GLM = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
ERNIE = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
MUSE = {"image_token": "<|patch|>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>", "video_token": "<|video|>"}
GEMMA = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}


def native(
    name: str,
    processor: str,
    tokens: dict[str, str],
    *,
    written: str = "",
    vision: dict[str, Any] | None = None,
    ids: dict[str, Any] | None = None,
    table: dict[str, Callable[[], Pair]] = NATIVE,
    smooth: bool = False,
    grows: bool = False,
    **parts: Callable[[], Any],
) -> None:
    """List a family.

    Args:
        processor: the name of its processor class.
        tokens: its special tokens, by the tokenizer's attributes, which are also the configuration's, with "_id" at the end.
        written: what the chat template writes for an image; the start token, the image token and the end token by default.
        vision: what differs in the tower from the tiny model's; the size of a patch is the image processor's.
        ids: tokens under other names of the configuration's, and what else differs there.
        table: where to list it.
        smooth: whether the model's convolutions are `smoothed`.
        grows: whether the processor adds tokens.
        parts: the processor's parts and settings other than the tokenizer, each with its own defaults.
    """

    def build() -> Pair:
        skip_if_lacking(name)
        words, made = tokenizer(**tokens, grows=grows), {part: make() for part, make in parts.items()}
        patch = getattr(made["image_processor"], "patch_size", None)
        tower = {**({"patch_size": patch} if patch else {}), **(vision or {})}
        small = model(name, words, vision_config=tower, **_ids(name, tokens), **(ids or {}))
        if smooth:
            smoothed(small.model)
        return small, getattr(hf, processor)(tokenizer=words, chat_template=template(written or _enclosed(tokens)), **made)

    table[name] = build


def _enclosed(tokens: dict[str, str]) -> str:
    """The image token between the tokens that start and end an image."""
    start = tokens.get("vision_start_token") or tokens.get("image_start_token", "")
    end = tokens.get("vision_end_token") or tokens.get("image_end_token", "")
    return start + tokens["image_token"] + end


def _ids(name: str, tokens: dict[str, str]) -> dict[str, str]:
    """The configuration's fields for these tokens."""
    config = hf.CONFIG_MAPPING[name]()
    return {f"{attribute}_id": token for attribute, token in tokens.items() if hasattr(config, f"{attribute}_id")}


QWEN_IMAGES = {"image_processor": hf.Qwen2VLImageProcessor, "video_processor": hf.Qwen2VLVideoProcessor}
for family in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "cosmos3_omni"):
    native(family, "Qwen3VLProcessor", QWEN, image_processor=hf.Qwen2VLImageProcessor, video_processor=hf.Qwen3VLVideoProcessor)
native("qwen2_vl", "Qwen2VLProcessor", QWEN, **QWEN_IMAGES)
for family, kind in (
    ("qwen2_5_vl", "Qwen2_5_VLProcessor"),
    ("exaone4_5", "Exaone4_5_Processor"),
    ("hyperclovax_vision_v2", "HyperCLOVAXVisionV2Processor"),
):
    native(family, kind, QWEN, vision={"window_size": 112}, **QWEN_IMAGES)
native(
    "cosmos3_edge",
    "Cosmos3EdgeProcessor",
    QWEN,
    image_processor=lambda: hf.Cosmos3EdgeImageProcessor(),
    video_processor=lambda: hf.Cosmos3EdgeVideoProcessor(),
)
native("lfm3_vl", "Lfm3VlProcessor", QWEN, **QWEN_IMAGES)
native("glm46v", "Glm46VProcessor", GLM, image_processor=hf.Glm46VImageProcessor, video_processor=hf.Glm46VVideoProcessor)
native("glmga", "Glm46VProcessor", GLM, image_processor=hf.GlmgaImageProcessor, video_processor=hf.Glm46VVideoProcessor)
native(
    "glm5_next",
    "Glm5NextProcessor",
    GLM,
    ids={"text_config": {"index_n_heads": 16}},
    image_processor=lambda: hf.Glm5NextImageProcessor(),
    video_processor=lambda: hf.Glm5NextVideoProcessor(),
)
for family in ("glm4v", "glm4v_moe", "glm_ocr"):
    native(family, "Glm4vProcessor", GLM, image_processor=hf.Glm4vImageProcessor, video_processor=hf.Glm4vVideoProcessor)
native(
    "cohere_compass",
    "CohereCompassProcessor",
    {name: token.upper() for name, token in QWEN.items()},
    image_processor=hf.CohereCompassImageProcessor,
    video_processor=hf.Qwen2VLVideoProcessor,
)
native(
    "ernie4_5_vl_moe",
    "Ernie4_5_VLMoeProcessor",
    ERNIE,
    image_processor=hf.Ernie4_5_VLMoeImageProcessor,
    video_processor=hf.Ernie4_5_VLMoeVideoProcessor,
)
native("paddleocr_vl", "PaddleOCRVLProcessor", QWEN, image_processor=hf.PaddleOCRVLImageProcessor)
native(
    "kimi_k25",
    "Kimi_K25Processor",
    {"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"},
    vision={"pos_emb_height": 64, "pos_emb_width": 64},
    image_processor=hf.Kimi_K25ImageProcessor,
    video_processor=hf.Kimi_K25VideoProcessor,
)
MUSE_POSITIONS = {"pos_emb_height": 64, "pos_emb_width": 64, "max_position_embeddings": 64**2}
MUSE_IMAGES = {"image_processor": hf.MuseGlimmerImageProcessor, "video_processor": hf.MuseGlimmerVideoProcessor}
native("muse_glimmer", "MuseGlimmerProcessor", MUSE, written="<|patch|>", vision=MUSE_POSITIONS, **MUSE_IMAGES)
native(
    "muse_spark",
    "MuseSparkProcessor",
    MUSE | {"audio_token": "<|audio|>"},
    written="<|patch|>",
    vision=MUSE_POSITIONS,
    feature_extractor=lambda: hf.MuseSparkFeatureExtractor(),
    **MUSE_IMAGES,
)
native(
    "dots3_note",
    "Dots3NoteProcessor",
    {"image_token": "<|imgpad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_comp_pad|>"},
    ids={"text_config": {"index_n_heads": 16}},
    image_processor=lambda: hf.Qwen2VLImageProcessor(temporal_patch_size=1),
    video_processor=hf.Qwen2VLVideoProcessor,
    feature_extractor=lambda: hf.Dots3NoteFeatureExtractor(),
)
native(
    "video_llama_3",
    "VideoLlama3Processor",
    QWEN,
    image_processor=hf.VideoLlama3ImageProcessor,
    video_processor=hf.VideoLlama3VideoProcessor,
)
native(
    "inkling2",
    "Inkling2Processor",
    {"image_token": "<|unused_200054|>"},
    vision={"patch_size": 20},
    ids={"text_config": {"unpadded_vocab_size": 32002}},
    image_processor=lambda: hf.Inkling2ImageProcessor(),
)
native(
    "gemma4",
    "Gemma4Processor",
    GEMMA,
    grows=True,
    written="<image_soft_token>",
    vision={"position_embedding_size": 10240, "pooling_kernel_size": 3},
    ids={"text_config": {"vocab_size_per_layer_input": 33000}},
    image_processor=hf.Gemma4ImageProcessor,
    video_processor=hf.Gemma4VideoProcessor,
    feature_extractor=hf.Gemma4AudioFeatureExtractor,
)
native(
    "gemma4_unified",
    "Gemma4UnifiedProcessor",
    GEMMA,
    grows=True,
    written="<image_soft_token>",
    vision={"pooling_kernel_size": 3, "mm_posemb_size": 1120},
    image_processor=hf.Gemma4UnifiedImageProcessor,
    video_processor=hf.Gemma4UnifiedVideoProcessor,
    feature_extractor=hf.Gemma4UnifiedAudioFeatureExtractor,
)
native(
    "hunyuan_vl",
    "HunYuanVLProcessor",
    {"image_token": "<|image|>", "image_start_token": "<|im_start|>", "image_end_token": "<|im_end|>"},
    vision={"max_image_size": 2048, "img_max_token_num": 16384},
    image_processor=hf.HunYuanVLImageProcessor,
)
PIXTRAL = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


def pixtral_images() -> Any:
    return hf.PixtralImageProcessor(patch_size={"height": 14, "width": 14})


native("lighton_ocr", "LightOnOcrProcessor", PIXTRAL, written="[IMG]", vision={"patch_size": 14}, image_processor=pixtral_images)
native(
    "mistral_large4",
    "PixtralProcessor",
    PIXTRAL,
    written="[IMG]",
    vision={"patch_size": 14},
    ids={"text_config": {"index_n_heads": 16}},
    image_processor=pixtral_images,
    patch_size=lambda: 14,
    spatial_merge_size=lambda: 2,
)
for family, merge in (("mistral3", 2), ("pixtral", 1)):
    native(
        family,
        "PixtralProcessor",
        PIXTRAL,
        written="[IMG]",
        vision={"patch_size": 14},
        ids={"image_token_index": "[IMG]"},
        image_processor=pixtral_images,
        patch_size=lambda: 14,
        spatial_merge_size=lambda merge=merge: merge,
    )
OMNI = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
for family, kind, tower in (
    ("qwen2_5_omni_thinker", "Qwen2_5OmniProcessor", {"window_size": 112}),
    ("qwen3_omni_moe_thinker", "Qwen3OmniMoeProcessor", {}),
):
    native(
        family,
        kind,
        OMNI,
        written="<|vision_bos|><|IMAGE|><|vision_eos|>",
        vision=tower,
        # Its masks have no window, whatever its configuration says; that of the checkpoints says none.
        ids={"vision_start_token_id": "<|vision_bos|>", "text_config": {"sliding_window": None}},
        feature_extractor=hf.WhisperFeatureExtractor,
        **QWEN_IMAGES,
    )
native(
    "minimax_m3_vl",
    "MiniMaxM3VLProcessor",
    {
        "image_token": "]<]image[>[",
        "video_token": "]<]video[>[",
        "vision_start_token": "]<]start of image[>[",
        "vision_end_token": "]<]end of image[>[",
    },
    written="]<]image[>[",
    image_processor=lambda: hf.MiniMaxM3VLImageProcessor(),
    video_processor=lambda: hf.MiniMaxM3VLVideoProcessor(),
)
native(
    "nemotron_h_omni",
    "NemotronH_Omni_Reasoning_V3Processor",
    {
        "image_token": "<image>",
        "video_token": "<video>",
        "audio_token": "<so_embedding>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
    },
    written="<image>",
    vision={"max_img_size": 2048, "patch_dim": 3 * 16**2, "video_patch_dim": 2 * 3 * 16**2},
    image_processor=lambda: hf.NemotronH_Omni_Reasoning_V3ImageProcessor(),
    video_processor=lambda: hf.NemotronH_Omni_Reasoning_V3VideoProcessor(),
    feature_extractor=hf.ParakeetFeatureExtractor,
)
native(
    "inkling_mm_model",
    "InklingProcessor",
    {
        "image_token": "<|unused_200054|>",
        "audio_token": "<|unused_200053|>",
        "image_start_token": "<|content_image|>",
        "audio_start_token": "<|content_audio_input|>",
    },
    written="<|content_image|><|unused_200054|>",
    vision={"patch_size": 40},
    image_processor=lambda: hf.InklingImageProcessor(),
    feature_extractor=lambda: hf.InklingFeatureExtractor(),
)
NATIVE["emu3"] = quantised.emu3


def fuyu() -> Pair:
    """Its processor puts the image before the prompt."""
    words = tokenizer("|SPEAKER|", "|NEWLINE|")

    class WithPrefix(type(words)):  # type: ignore[misc]
        """Fuyu's own tokenizer begins an image with a token of its own, which the processor drops."""

        def __call__(self, text: str, **options: Any) -> Any:
            return super().__call__(f"a{text}" if text.startswith("|SPEAKER|") else text, **options)

    words.__class__ = WithPrefix
    return model("fuyu", words, image_token_id="|SPEAKER|", patch_size=30), hf.FuyuProcessor(hf.FuyuImageProcessor(), words)


NATIVE["fuyu"] = fuyu
