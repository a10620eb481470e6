"""Families that take an image of any size as flat patches, `image_grid_thw` beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.families.tiny import IMAGE, Built, family, model, noise


def _mrope() -> dict[str, Any]:
    """The rotary settings of a text model; a new dictionary each time, since configurations write into the one that they get."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}


def _grid(
    name: str,
    *,
    patch: Sequence[int] = (3 * 2 * 16,),
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    **changes: Any,
) -> Built:
    """4 x 6 patches of 4 x 4 pixels, four of which become one token.

    Args:
        patch: the shape of one patch as the family takes it.
        text, vision: what differs from the shared sizes.
    """
    tokens = torch.tensor([[1, 5, 147, *[IMAGE] * 6, 146, 7, 8, 9]])
    inputs = {"input_ids": tokens, "pixel_values": noise(24, *patch), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    return model(name, text_config=text or {}, vision_config={"patch_size": 4, **(vision or {})}, **changes), inputs


def _typed(built: Built) -> Built:
    """With a type for each token, from which M-RoPE takes its positions."""
    small, inputs = built
    return small, {**inputs, "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int()}


@family("glm46v", "glmga")
def glm46v() -> Built:
    return _typed(_grid("glm46v", text=_mrope()))


@family()
def glm4v_moe() -> Built:
    return _typed(_grid("glm4v_moe", text={"rope_parameters": {**_mrope()["rope_parameters"], "partial_rotary_factor": 1.0}}))


@family()
def glm_ocr() -> Built:
    return _typed(_grid("glm_ocr", text=_mrope()))


@family()
def glm5_next() -> Built:
    """Four residual streams; three blocks of linear attention, then one that attends to the keys an indexer chose."""
    text = {
        "num_key_value_heads": 4,
        "qk_rope_head_dim": 0,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "index_topk": 8,
        "index_kpool": 2,
        "index_n_heads": 2,
        "index_head_dim": 8,
    }
    return _typed(_grid("glm5_next", text=text, vision={"projection_intermediate_size": 48}))


@family()
def cohere_compass() -> Built:
    """Sliding windows in three blocks of four."""
    rope = {"sliding_attention": _mrope()["rope_parameters"], "full_attention": _mrope()["rope_parameters"]}
    text = {"rope_parameters": rope, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
    return _typed(_grid("cohere_compass", text=text, vision={"deepstack_visual_indexes": [0, 1]}))


@family()
def cosmos3_edge() -> Built:
    return _typed(_grid("cosmos3_edge", patch=(48,), text=_mrope(), vision={"num_patches": 16}, projector_hidden_size=48))


@family()
def cosmos3_omni() -> Built:
    return _typed(_grid("cosmos3_omni", text=_mrope(), vision={"deepstack_visual_indexes": [0, 1]}))


@family()
def dots3_note() -> Built:
    sliding = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8}
    text = {
        "num_key_value_heads": 4,
        "head_dim": 16,
        "index_topk": 6,
        "index_head_dim": 8,
        "index_n_heads": 2,
        "shared_experts_intermediate_size": 16,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_v_head_dim": 8,
    }
    vision = {"adapter_in_dim": 24, "adapter_out_dim": 32, "mlp_layer_types": ["dense", "sparse", "sparse"], "moe_intermediate_size": 16}
    audio = {"num_hidden_layers": 1, "adapter_input_size": 32, "adapter_out_dim": 32, "feature_size": 8, "downsample_hidden_size": 8}
    return _grid("dots3_note", patch=(48,), text={**text, **sliding}, vision={**vision, "num_local_experts": 4}, audio_config=audio)


@family()
def ernie4_5_vl_moe() -> Built:
    text = {"moe_intermediate_size": [16, 16], "moe_num_experts": 4, "moe_k": 2}
    text["rope_parameters"] = _mrope()["rope_parameters"]
    small, inputs = _typed(_grid("ernie4_5_vl_moe", patch=(48,), text=text))
    return small, {**inputs, "moe_mm_token_type_ids": inputs["mm_token_type_ids"]}


@family()
def exaone4_5() -> Built:
    return _grid("exaone4_5", text={"sliding_window_pattern": 2}, vision={"window_size": 16, "fullatt_block_indexes": [2]})


@family()
def hunyuan_vl() -> Built:
    """Newline tokens end the rows, and a token marks each end of the image."""
    small, inputs = _typed(_grid("hunyuan_vl", patch=(48,), text=_mrope(), vision={"max_image_size": 64, "img_max_token_num": 64}))
    tokens = torch.tensor([[1, 5, *[IMAGE] * 10, 7, 8, 9]])
    return small, {**inputs, "input_ids": tokens, "mm_token_type_ids": (tokens == IMAGE).int()}


@family()
def hyperclovax_vision_v2() -> Built:
    return _grid("hyperclovax_vision_v2", vision={"window_size": 16, "fullatt_block_indexes": [2]})


@family()
def inkling2() -> Built:
    """Convolutions and a learned relative position in addition to each block's attention."""
    text = {"rel_extent": 16, "d_rel": 4, "sliding_window_size": 6, "layer_types": ["hybrid_sliding", "hybrid"] * 2}
    sliding = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "n_layers_per_attn_res_block": 2}
    vision = {"posemb_grid_size": 4, "projection_hidden_dim": 32}
    small, inputs = _grid("inkling2", text={**text, **sliding, "unpadded_vocab_size": 160}, vision=vision)
    return small, {**inputs, "pixel_values": noise(6, 8, 8, 3), "image_grid_thw": torch.tensor([[1, 2, 3]])}


@family()
def kimi_k25() -> Built:
    text = {"num_key_value_heads": 4, "first_k_dense_replace": 1}
    return _grid("kimi_k25", patch=(3, 4, 4), text=text, vision={"pos_emb_height": 4, "pos_emb_width": 4}, projection_hidden_size=24)


@family()
def lfm3_vl() -> Built:
    """Convolutions in the tower as in the decoder."""
    vision = {"layer_types": ["conv", "full_attention", "conv"]}
    return _grid("lfm3_vl", vision=vision, projector_hidden_size=48)


@family()
def minimax_m3_vl() -> Built:
    """An indexer chooses blocks of 4 keys in every other block."""
    index = {"index_head_dim": 8, "index_n_heads": 2, "index_block_size": 4, "index_topk_blocks": 2}
    text = {"dense_intermediate_size": 32, "shared_intermediate_size": 16, "layer_types": ["full_attention", "minimax_m3_sparse"] * 2}
    return _grid("minimax_m3_vl", text={**text, **index, "rotary_dim": 4}, vision={"image_size": 32}, projector_hidden_size=32)


_WINDOWED = {"pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 16}


@family()
def muse_glimmer() -> Built:
    return _grid("muse_glimmer", vision=_WINDOWED, out_hidden_size=96, projector_hidden_size=32)


@family()
def muse_spark() -> Built:
    audio = {"out_hidden_size": 32, "hidden_sizes": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}
    text = {"moe_hidden_size": 16}
    return _grid("muse_spark", text=text, vision=_WINDOWED, audio_config=audio, out_hidden_size=96, projector_hidden_size=32)


@family()
def paddleocr_vl() -> Built:
    return _typed(_grid("paddleocr_vl", patch=(3, 4, 4), text=_mrope()))


_SMALL_AUDIO = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 32}


@family()
def qwen2_5_omni_thinker() -> Built:
    vision = {"window_size": 16, "fullatt_block_indexes": [2]}
    return _grid("qwen2_5_omni_thinker", text=_mrope(), vision=vision, audio_config=_SMALL_AUDIO)


@family()
def qwen3_omni_moe_thinker() -> Built:
    audio = {**_SMALL_AUDIO, "downsample_hidden_size": 8}
    return _grid("qwen3_omni_moe_thinker", text=_mrope(), vision={"deepstack_visual_indexes": [0, 1]}, audio_config=audio)


@family()
def qwen3_5() -> Built:
    """Three blocks of linear attention, then one of attention."""
    return _typed(_grid("qwen3_5", text=_mrope()))


@family()
def qwen3_5_moe() -> Built:
    return _typed(_grid("qwen3_5_moe", text={**_mrope(), "shared_expert_intermediate_size": 16}))


@family()
def qwen3_vl_moe() -> Built:
    return _typed(_grid("qwen3_vl_moe", text=_mrope(), vision={"deepstack_visual_indexes": [0, 1]}))


@family()
def qwen4_exp() -> Built:
    """Residual streams side by side in the feature axis."""
    indexer = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 2}
    text = {**_mrope(), **indexer, "shared_expert_intermediate_size": 16, "hc_count": 2, "hc_lowrank": 8}
    return _typed(_grid("qwen4_exp", text=text))


@family()
def video_llama_3() -> Built:
    small, inputs = _grid("video_llama_3", patch=(48,))
    return small, {**inputs, "image_merge_sizes": torch.tensor([2])}
