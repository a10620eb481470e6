"""Families that cut tiles, with the default image settings of their processor classes or of a released checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import transformers as hf

from tests.processors import real
from tests.processors.native import native
from tests.processors.offline import Pair, model, template, tokenizer

TILED: dict[str, Callable[[], Pair]] = {"llava_next/siglip": real.llava_next, "llava_onevision": real.llava_onevision}
"""Family -> its model of real geometry and its processor."""

tiled = partial(native, table=TILED)
IMAGE = {"image_token": "<image>"}
CLIP = {"image_size": 336, "patch_size": 14}


def pixels(edge: int) -> dict[str, int]:
    """The size of a square, as image processors take it."""
    return {"height": edge, "width": edge}


for family in ("llava_next", "llava_next_video"):
    video = family.endswith("video")
    tiled(
        family,
        "LlavaNextVideoProcessor" if video else "LlavaNextProcessor",
        IMAGE | ({"video_token": "<video>"} if video else {}),
        written="<image>",
        vision=CLIP,
        ids={
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
            "vision_feature_select_strategy": "default",
        },
        image_processor=lambda: hf.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=pixels(336)),
        patch_size=lambda: 14,
        vision_feature_select_strategy=lambda: "default",
        num_additional_image_tokens=lambda: 1,
        **({"video_processor": hf.LlavaNextVideoVideoProcessor} if video else {}),
    )
INTERN = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
tiled(
    "internvl",
    "InternVLProcessor",
    INTERN | {"video_token": "<video>"},
    written="<IMG_CONTEXT>",
    vision={"image_size": [448, 448], "patch_size": [14, 14]},
    ids={"image_token_id": "<IMG_CONTEXT>"},
    image_processor=lambda: hf.GotOcr2ImageProcessor(size=pixels(448), crop_to_patches=True),
    video_processor=hf.InternVLVideoProcessor,
    image_seq_length=lambda: 256,
)
tiled(
    "qianfan_ocr",
    "QianfanOCRProcessor",
    INTERN,
    written="<IMG_CONTEXT>",
    vision={"image_size": [448, 448], "patch_size": [14, 14]},
    ids={"image_token_id": "<IMG_CONTEXT>"},
    image_processor=lambda: hf.GotOcr2ImageProcessor(size=pixels(448), crop_to_patches=True),
    image_placeholder_token=lambda: "<IMG_CONTEXT>",
)
tiled(
    "aya_vision",
    "AyaVisionProcessor",
    {
        "image_token": "<image>",
        "image_start_token": "<|START_OF_IMG|>",
        "image_end_token": "<|END_OF_IMG|>",
        "patch_token": "<|IMG_PATCH|>",
        "line_token": "<|IMG_LINE_BREAK|>",
        "global_token": "TILE_GLOBAL",
        "tile_token": "TILE",
        **{f"tile_{number}_token": f"TILE_{number}" for number in range(1, 13)},
    },
    written="<image>",
    vision={"image_size": 364, "patch_size": 14},
    ids={"image_token_index": "<|IMG_PATCH|>"},
    image_processor=lambda: hf.GotOcr2ImageProcessor(size=pixels(364), crop_to_patches=True),
    patch_size=lambda: 28,
)
tiled(
    "cohere2_vision",
    "Cohere2VisionProcessor",
    {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    },
    written="<|IMG_PATCH|>",
    vision={"image_size": 512, "patch_size": 16},
    image_processor=hf.Cohere2VisionImageProcessor,
)
tiled(
    "idefics3",
    "Idefics3Processor",
    {
        "image_token": "<image>",
        "global_token": "<global-img>",
        "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
        **{f"place_{row}_{col}_token": f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)},
    },
    written="<image>",
    vision={"image_size": 364, "patch_size": 14},
    image_processor=hf.Idefics3ImageProcessor,
    image_seq_len=lambda: 169,
)
tiled(
    "smolvlm",
    "SmolVLMProcessor",
    {
        "image_token": "<image>",
        "global_token": "<global-img>",
        "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
        **{f"place_{row}_{col}_token": f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)},
    },
    written="<image>",
    vision={"image_size": 512, "patch_size": 16},
    ids={"scale_factor": 4},
    image_processor=lambda: hf.SmolVLMImageProcessor(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}),
    video_processor=hf.SmolVLMVideoProcessor,
    image_seq_len=lambda: 64,
)
tiled(
    "lfm2_vl",
    "Lfm2VlProcessor",
    {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail": "<|img_thumbnail|>",
        **{f"place_{row}_{col}_token": f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)},
    },
    written="<image>",
    vision={"patch_size": 16, "num_patches": 256},
    image_processor=hf.Lfm2VlImageProcessor,
)
tiled(
    "llama4",
    "Llama4Processor",
    {
        "image_token": "<|image|>",
        "start_token": "<|image_start|>",
        "end_token": "<|image_end|>",
        "patch_token": "<|patch|>",
        "tile_token": "<|tile_x_separator|>",
        "row_token": "<|tile_y_separator|>",
    },
    written="<|image|>",
    vision=CLIP,
    ids={"image_token_index": "<|patch|>"},
    image_processor=lambda: hf.Llama4ImageProcessor(size=pixels(336)),
    patch_size=lambda: 14,
)
tiled(
    "perception_lm",
    "PerceptionLMProcessor",
    {"image_token": "<|image|>", "video_token": "<|video|>"},
    written="<|image|>",
    vision={"image_size": 448, "patch_size": 14},
    image_processor=lambda: hf.PerceptionLMImageProcessor(tile_size=448),
    video_processor=hf.PerceptionLMVideoProcessor,
    patch_size=lambda: 14,
    pooling_ratio=lambda: 2,
)
tiled(
    "granite_docling",
    "GraniteDoclingProcessor",
    {
        "image_token": "<image>",
        "global_token": "<global-img>",
        "fake_image_token": "<fake_token_around_image>",
        **{f"place_{row}_{col}_token": f"<row_{row}_col_{col}>" for row in range(1, 17) for col in range(1, 17)},
    },
    written="<image>",
    vision={"image_size": 512, "patch_size": 16, "scale_factor": 4},
    image_processor=lambda: hf.GraniteDoclingImageProcessor(),
)
tiled(
    "granite4_vision",
    "Granite4VisionProcessor",
    IMAGE,
    vision={"image_size": 384, "patch_size": 16},
    ids={"image_grid_pinpoints": real.GRANITE_CANVASES, "downsample_rate": "4/8"},
    image_processor=lambda: hf.LlavaNextImageProcessor(size=pixels(384), crop_size=pixels(384), image_grid_pinpoints=real.GRANITE_CANVASES),
    patch_size=lambda: 16,
    downsample_rate=lambda: "4/8",
    vision_feature_select_strategy=lambda: "full",
)
MINICPM = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MINICPM_IMAGES = {"image_processor": lambda: hf.MiniCPMV4_6ImageProcessor(), "video_processor": lambda: hf.MiniCPMV4_6VideoProcessor()}
OCR_IMAGES = {"image_processor": lambda: hf.MiniCPMOcrImageProcessor(), "video_processor": lambda: hf.MiniCPMOcrVideoProcessor()}
for family, kind, parts in (
    ("minicpmv4_6", "MiniCPMV4_6", MINICPM_IMAGES),
    ("minicpmv4_7", "MiniCPMV4_7", MINICPM_IMAGES),
    ("minicpm_ocr", "MiniCPMOcr", OCR_IMAGES),
):
    tiled(family, f"{kind}Processor", MINICPM, written="<|image_pad|>", vision={"image_size": 980, "patch_size": 14}, **parts)


def ovis2() -> Pair:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    images = hf.Ovis2ImageProcessor(size=pixels(448), crop_to_patches=True)
    processor = hf.Ovis2Processor(images, words, chat_template=template("<image>"), image_seq_length=256)
    ids = {"visual_indicator_token_ids": words.convert_tokens_to_ids(marks), "vocab_size": len(words)}
    return model("ovis2", words, vision_config={"image_size": 448, "patch_size": 14}, image_token_id="<IMG_ATOM>", **ids), processor


TILED["ovis2"] = ovis2
tiled(
    "unlimited_ocr",
    "UnlimitedOcrProcessor",
    IMAGE,
    vision={"sam_config": {"image_size": 1024, "patch_size": 16}},
    smooth=True,
    image_processor=lambda: hf.UnlimitedOcrImageProcessor(),
)
tiled(
    "step3p7",
    "Step3p7Processor",
    {
        "image_token": "<im_patch>",
        "start_token": "<im_start>",
        "end_token": "<im_end>",
        "patch_start_token": "<patch_start>",
        "patch_end_token": "<patch_end>",
        "newline_token": "<patch_newline>",
    },
    written="<im_patch>",
    vision={"image_size": 728, "patch_size": 14, "max_position_embeddings": 52**2},
    smooth=True,
    image_processor=lambda: hf.Step3p7ImageProcessor(),
)
tiled(
    "molmo2",
    "Molmo2Processor",
    {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "patch_token": "<im_patch>",
        "col_token": "<im_col>",
        "start_token": "<im_start>",
        "low_start_token": "<low_res_im_start>",
        "frame_start_token": "<frame_start>",
        "end_token": "<im_end>",
        "frame_end_token": "<frame_end>",
        "low_token": "<im_low>",
    },
    written="<|image|>",
    vision={"image_size": [378, 378], "patch_size": 14, "num_position_embeddings": 27**2},
    ids={"image_patch_id": "<im_patch>"},
    image_processor=lambda: hf.Molmo2ImageProcessor(),
    video_processor=lambda: hf.Molmo2VideoProcessor(),
)
