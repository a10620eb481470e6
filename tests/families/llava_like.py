"""Families with a tower for squares, whose projected patches take the image tokens' places one by one."""

from __future__ import annotations

from typing import Any

import torch

from tests.families.tiny import Built, family, ids, model, pixels


@family()
def llava() -> Built:
    return model("llava"), {"input_ids": ids(16), "pixel_values": pixels(1)}


_TILES = {"image_grid_pinpoints": [[28, 28]]}
_SIZES = {"image_sizes": torch.tensor([[28, 28]])}


@family()
def llava_next() -> Built:
    """A base view, then one tile with a newline token after each row."""
    return model("llava_next", **_TILES), {"input_ids": ids(16 + 16 + 4), "pixel_values": pixels(1, 2), **_SIZES}


@family()
def llava_next_video() -> Built:
    return model("llava_next_video", **_TILES), {"input_ids": ids(16 + 16 + 4), "pixel_values": pixels(1, 2), **_SIZES}


@family()
def video_llava() -> Built:
    """Towers for images and for videos; class tokens are projected too."""
    return model("video_llava"), {"input_ids": ids(16), "pixel_values_images": pixels(1)}


@family()
def lighton_ocr() -> Built:
    return model("lighton_ocr"), {"input_ids": ids(4), "pixel_values": pixels(1), **_SIZES}


@family()
def mistral_large4() -> Built:
    """Latent attention; an indexer chooses the keys."""
    text = {"num_key_value_heads": 4, "index_topk": 6, "index_head_dim": 8, "index_n_heads": 2, "no_rope_layers": [1, 1, 0, 1]}
    return model("mistral_large4", text_config=text), {"input_ids": ids(4), "pixel_values": pixels(1), **_SIZES}


@family()
def qianfan_ocr() -> Built:
    vision = {"image_size": (28, 28), "patch_size": (7, 7)}
    return model("qianfan_ocr", vision_config=vision), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def deepseek_vl() -> Built:
    return model("deepseek_vl"), {"input_ids": ids(16), "pixel_values": pixels(1)}


_SAM = {"output_channels": 8, "mlp_dim": 48, "window_size": 2, "global_attn_indexes": [2], "patch_size": 7}


@family()
def deepseek_vl_hybrid() -> Built:
    """A second tower, SAM's, sees a larger image."""
    high = {**_SAM, "image_size": 112, "num_pos_feats": 8}
    inputs = {"input_ids": ids(16), "pixel_values": pixels(1), "high_res_pixel_values": pixels(1, size=112)}
    return model("deepseek_vl_hybrid", high_res_vision_config=high), inputs


_EXPERTS = {
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "topk_method": "greedy",
}


@family()
def deepseek_ocr2() -> Built:
    """144 learned queries read the image after SAM's tower, and a separator follows them."""
    sam = {**_SAM, "image_size": 112, "downsample_channels": [12, 24]}
    vision = {"sam_config": sam, "encoder_config": {"hidden_size": 24, "max_position_embeddings": 256}}
    return model("deepseek_ocr2", vision_config=vision, text_config=_EXPERTS), {"input_ids": ids(145), "pixel_values": pixels(1, size=112)}


@family()
def unlimited_ocr() -> Built:
    """SAM's tower, then CLIP's; newline tokens after each row and a separator at the end."""
    sam = {**_SAM, "image_size": 112, "downsample_channels": [12, 24]}
    vision = {"sam_config": sam, "encoder_config": {}}
    return model("unlimited_ocr", vision_config=vision, text_config=_EXPERTS), {
        "input_ids": ids(4 * 5 + 1),
        "pixel_values": pixels(1, size=112),
    }


@family()
def step3p7() -> Built:
    text = {"mlp_layer_types": ["dense", "sparse"] * 2, "share_expert_dim": 16, "num_sliding_attention_heads": 4}
    vision = {"mlp_ratio": 2.0, "max_position_embeddings": 16}
    return model("step3p7", text_config=text, vision_config=vision), {"input_ids": ids(1), "pixel_values": pixels(1)}


@family()
def aria() -> Built:
    """Queries read the tower; experts after each block."""
    text = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config: dict[str, Any] = {"text_config": text, "projector_patch_to_query_dict": {16: 4}}
    return model("aria", **config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def granite4_vision() -> Built:
    """Visual states of several vision layers are added before several decoder blocks."""
    qformer = {"hidden_size": 64, "encoder_hidden_size": 64, "num_hidden_layers": 1}
    layers = {"deepstack_layer_map": [[1, 0], [2, 1]], "spatial_vision_layer": -1, "spatial_target_layers": [1, 2, 2, 3]}
    small = model("granite4_vision", qformer_config=qformer, vision_config={"hidden_size": 64}, downsample_rate="1/2", **layers, **_TILES)
    return small, {"input_ids": ids(4 + 4 + 2), "pixel_values": pixels(1, 2), **_SIZES}


@family()
def granite_docling() -> Built:
    """Visual states are added between the decoder's first blocks."""
    vision = {"scale_factor": 2, "deepstack_visual_indexes": [0, 1]}
    inputs = {"input_ids": ids(4), "pixel_values": pixels(1, 1), "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)}
    return model("granite_docling", vision_config=vision), inputs


@family()
def shieldgemma2() -> Built:
    """Gemma 3 under another name."""
    text = {"query_pre_attn_scalar": 8}
    return model("shieldgemma2", text_config=text, mm_tokens_per_image=4), {"input_ids": ids(4), "pixel_values": pixels(1)}
