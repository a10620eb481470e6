"""Families whose prompt marks its images."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests import zoo
from tests.families import FAMILIES
from tests.families.towers import without_timm
from tests.processors.encoded.listing import SQUARE, encoded, square
from tests.processors.native import GEMMA, GLM, QWEN
from tests.processors.offline import PATCH, TILE, Pair, model, template, tokenizer


@encoded("aria")
def aria(name: str) -> Pair:
    words = tokenizer(image_token="<image>")
    processor = hf.AriaProcessor(hf.AriaImageProcessor(min_image_size=28), words, template("<image>"), {980: 4})
    vision = {"image_size": 980, "patch_size": 196}
    return model(name, words, image_token_index="<image>", vision_config=vision, projector_patch_to_query_dict={25: 4}), processor


@encoded("gemma3n")
def gemma3n(name: str) -> Pair:
    words = tokenizer(**GEMMA)
    audio = hf.Gemma3nAudioFeatureExtractor()
    processor = hf.Gemma3nProcessor(audio, square("Siglip"), words, template("<image_soft_token>"), image_seq_length=16)
    with without_timm():
        built = model(
            name,
            words,
            image_token_id="<image_soft_token>",
            audio_token_id="<audio_soft_token>",
            text_config={"vocab_size_per_layer_input": len(words)},
            vision_config={"vocab_offset": 40000},
            audio_config={"vocab_offset": 40008},
        )
    return built, processor


@encoded("deepseek_vl", "deepseek_vl_hybrid")
def deepseek_vl(name: str) -> Pair:
    words = tokenizer(image_token="<image_placeholder>")
    if name == "deepseek_vl":
        processor = hf.DeepseekVLProcessor(
            hf.DeepseekVLImageProcessor(size=SQUARE), words, template("<image_placeholder>"), num_image_tokens=16
        )
    else:
        images = hf.DeepseekVLHybridImageProcessor(size=SQUARE, high_res_size={"height": 112, "width": 112})
        processor = hf.DeepseekVLHybridProcessor(images, words, template("<image_placeholder>"), num_image_tokens=16)
    return model(name, words, image_token_id="<image_placeholder>"), processor


@encoded("deepseek_ocr2", "unlimited_ocr")
def deepseek_ocr(name: str) -> Pair:
    words = tokenizer(image_token="<image>")
    kind = "DeepseekOcr2" if name == "deepseek_ocr2" else "UnlimitedOcr"
    edge = 336 if name == "deepseek_ocr2" else 112  # its queries are for 48 x 48 patches
    images = getattr(hf, f"{kind}ImageProcessor")(size={"height": edge, "width": edge}, tile_size=edge)
    processor = getattr(hf, f"{kind}Processor")(images, words, template("<image>"), patch_size=7)
    built, _ = FAMILIES[name]()
    built.config.vision_config.sam_config.image_size = edge
    return model(name, words, image_token_id="<image>", vision_config=built.config.vision_config), processor


@encoded("emu3")
def emu3(name: str) -> Pair:
    words = tokenizer(
        image_token="<image>",
        boi_token="<|image start|>",
        eoi_token="<|image end|>",
        image_wrapper_token="<|image token|>",
        eof_token="<|extra_201|>",
    )
    processor = hf.Emu3Processor(hf.Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64), words, template("<image>"))
    small, _ = FAMILIES[name]()
    named = small.config.vocabulary_map | {"<image>": words.convert_tokens_to_ids("<image>")}
    return model(name, words, image_token_id="<image>", vocabulary_map=named, vq_config={"channel_multiplier": (1, 1, 1, 1)}), processor


@encoded("glm5_next")
def glm5_next(name: str) -> Pair:
    words = tokenizer(**GLM)
    images = hf.Glm5NextImageProcessor(patch_size=4)
    ids: dict[str, Any] = {f"{key}_id": token for key, token in GLM.items()}
    return model(name, words, **ids), hf.Glm5NextProcessor(
        images, words, hf.Glm5NextVideoProcessor(patch_size=4), template("<|begin_of_image|><|image|><|end_of_image|>")
    )


@encoded("qwen4_exp")
def qwen4_exp(name: str) -> Pair:
    words = tokenizer(**QWEN)
    images = hf.Qwen2VLImageProcessor(patch_size=4, size={"shortest_edge": 64, "longest_edge": 64 * 30})
    ids: dict[str, Any] = {f"{key}_id": token for key, token in QWEN.items()}
    return model(name, words, **ids), hf.Qwen3VLProcessor(
        images, words, hf.Qwen3VLVideoProcessor(patch_size=4), template("<|vision_start|><|image_pad|><|vision_end|>")
    )


@encoded("cosmos3_edge")
def cosmos3_edge(name: str) -> Pair:
    words = tokenizer(**QWEN)
    images = hf.Cosmos3EdgeImageProcessor(patch_size=4, size={"shortest_edge": 64, "longest_edge": 64 * 30})
    ids: dict[str, Any] = {f"{key}_id": token for key, token in QWEN.items()}
    return model(name, words, **ids), hf.Cosmos3EdgeProcessor(
        images, words, hf.Cosmos3EdgeVideoProcessor(patch_size=4), template("<|vision_start|><|image_pad|><|vision_end|>")
    )


@encoded("granite4_vision")
def granite4_vision(name: str) -> Pair:
    words = tokenizer("<image>")
    pinpoints = [[TILE * rows, TILE * cols] for rows in range(1, 5) for cols in range(1, 5)]
    images = hf.LlavaNextImageProcessor(size=SQUARE, crop_size=SQUARE, image_grid_pinpoints=pinpoints)
    processor = hf.Granite4VisionProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="full", chat_template=template("<image>"), downsample_rate="1/2"
    )
    return model(name, words, image_token_index="<image>", image_token_id="<image>", image_grid_pinpoints=pinpoints), processor


@encoded("granite_docling")
def granite_docling(name: str) -> Pair:
    places = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    words = tokenizer(
        "<image>", "<global-img>", *places, fake_image_token="<fake_token_around_image>", end_of_utterance_token="<end_of_utterance>"
    )
    images = hf.GraniteDoclingImageProcessor(size=SQUARE)
    # Its default factors make a block add little, and its head reads the embeddings: with random weights every prompt had one answer.
    text = {"attention_multiplier": 8**-0.5, "embedding_multiplier": 2.0, "residual_multiplier": 1.0, "tie_word_embeddings": False}
    return model(name, words, image_token_id="<image>", tie_word_embeddings=False, text_config=text), hf.GraniteDoclingProcessor(
        images, words, image_seq_len=4, chat_template=template("<image>")
    )


@encoded("inkling_mm_model")
def inkling(name: str) -> Pair:
    words = tokenizer("<|unused_200054|>", "<|unused_200053|>", "<|content_image|>", "<|content_audio_input|>")
    images = hf.InklingImageProcessor(size={"height": 4, "width": 4})
    processor = hf.InklingProcessor(hf.InklingFeatureExtractor(), images, words, template("<|content_image|><|unused_200054|>"))
    return model(name, words, image_token_id="<|unused_200054|>"), processor


@encoded("llava", "llava_next")
def llava(name: str) -> Pair:
    pair: Pair = getattr(zoo, name)()
    return pair


@encoded("llava_next_video")
def llava_next_video(name: str) -> Pair:
    words = tokenizer("<image>", "<video>")
    pinpoints = [[TILE * rows, TILE * cols] for rows in range(1, 4) for cols in range(1, 4)]
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE, image_grid_pinpoints=pinpoints)
    videos = hf.LlavaNextVideoVideoProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    processor = hf.LlavaNextVideoProcessor(
        videos,
        images,
        words,
        template("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    ids: dict[str, Any] = {
        "image_token_index": "<image>",
        "video_token_index": "<video>",
        "image_token_id": "<image>",
        "video_token_id": "<video>",
    }
    return model(name, words, **ids, image_grid_pinpoints=pinpoints), processor


@encoded("video_llava")
def video_llava(name: str) -> Pair:
    words = tokenizer("<image>", "<video>")
    images = hf.VideoLlavaImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    videos = hf.VideoLlavaVideoProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    processor = hf.VideoLlavaProcessor(images, videos, words, patch_size=PATCH, chat_template=template("<image>"))
    ids: dict[str, Any] = {
        "image_token_index": "<image>",
        "video_token_index": "<video>",
        "image_token_id": "<image>",
        "video_token_id": "<video>",
    }
    return model(name, words, **ids), processor


MINICPM = {
    "image_token": "<image_pad>",
    "video_token": "<video_pad>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


@encoded("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")
def minicpm(name: str) -> Pair:
    words = tokenizer(**MINICPM)
    kind = "MiniCPMOcr" if name == "minicpm_ocr" else "MiniCPMV4_6"
    images = getattr(hf, f"{kind}ImageProcessor")(patch_size=PATCH, scale_resolution=56)
    videos = getattr(hf, f"{kind}VideoProcessor")(patch_size=PATCH, scale_resolution=56)
    whole = hf.MiniCPMV4_7Processor if name == "minicpmv4_7" else getattr(hf, f"{kind}Processor")
    processor = whole(image_processor=images, video_processor=videos, tokenizer=words, chat_template=template("<image_pad>"))
    return model(name, words, image_token_id="<image_pad>", video_token_id="<video_pad>"), processor


@encoded("minimax_m3_vl")
def minimax_m3_vl(name: str) -> Pair:
    words = tokenizer("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[")
    images = hf.MiniMaxM3VLImageProcessor(patch_size=4, size={"shortest_edge": 64, "longest_edge": 64 * 30})
    videos = hf.MiniMaxM3VLVideoProcessor(patch_size=4)
    processor = hf.MiniMaxM3VLProcessor(images, words, videos, template("]<]image[>["))
    return model(name, words, image_token_id="]<]image[>[", video_token_id="]<]video[>[", image_token_index="]<]image[>["), processor


@encoded("molmo2")
def molmo2(name: str) -> Pair:
    marks = ["<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>", "<im_low>"]
    words = tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    images = hf.Molmo2ImageProcessor(size={"height": 28, "width": 28}, patch_size=PATCH, overlap_margins=[1, 1])
    processor = hf.Molmo2Processor(images, hf.Molmo2VideoProcessor(), words, template("<|image|>"))
    return model(name, words, image_patch_id="<im_patch>"), processor


@encoded("nemotron_h_omni")
def nemotron(name: str) -> Pair:
    words = tokenizer("<img>", "</img>", image_token="<image>", video_token="<video>", audio_token="<so_embedding>")
    images = hf.NemotronH_Omni_Reasoning_V3ImageProcessor(patch_size=4, min_num_patches=16, max_num_patches=64)
    videos = hf.NemotronH_Omni_Reasoning_V3VideoProcessor()
    processor = hf.NemotronH_Omni_Reasoning_V3Processor(
        images, videos, words, hf.ParakeetFeatureExtractor(), chat_template=template("<image>")
    )
    return model(name, words, image_token_id="<image>", img_context_token_id="<image>"), processor


@encoded("qianfan_ocr")
def qianfan_ocr(name: str) -> Pair:
    words = tokenizer("<image>", start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>")
    images = hf.GotOcr2ImageProcessor(size=SQUARE, max_patches=6)
    processor = hf.QianfanOCRProcessor(images, words, image_seq_length=4, chat_template=template("<image>"))
    return model(name, words, image_token_id="<IMG_CONTEXT>"), processor


@encoded("step3p7")
def step3p7(name: str) -> Pair:
    words = tokenizer("<im_patch>", "<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>")
    processor = hf.Step3p7Processor(hf.Step3p7ImageProcessor(), words, template("<im_patch>"))
    vision = {"image_size": 728, "patch_size": 14, "max_position_embeddings": 52**2}
    return model(name, words, image_token_id="<im_patch>", vision_config=vision), processor
