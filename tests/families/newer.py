"""Families that came with transformers 5.24."""

from __future__ import annotations

from typing import Any

import torch

from tests.families.tiny import IMAGE, Built, family, model, noise

QUANTISED = {
    "codebook_size": 16,
    "embed_dim": 8,
    "latent_channels": 8,
    "base_channels": 32,
    "channel_multiplier": (1, 1),
    "num_res_blocks": 1,
}


@family()
def apertus1p5() -> Built:
    """The image becomes tokens of the vocabulary, by convolutions."""
    audio = {"model_type": "wavtokenizer_encoder", "codebook_size": 16, "codebook_dim": 32}
    vision = {**QUANTISED, "attn_resolutions": ()}
    tokens = torch.tensor([[1, 5, 6, *[99] * 12, 7, 8, 9]])
    small = model("apertus1p5", vision_config=vision, audio_config=audio, image_token_id=99, image_token_offset=100, audio_token_offset=116)
    return small, {"input_ids": tokens, "pixel_values": noise(1, 3, 6, 8), "image_sizes": torch.tensor([[6, 8]])}


@family()
def hy_v4_vl() -> Built:
    """Four residual streams; attention to the keys that an indexer chose; a newline token after each row of the image."""
    text = {"num_key_value_heads": 4, "qk_rope_head_dim": 8, "index_topk": 8, "index_n_heads": 2, "index_head_dim": 8}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    tokens = torch.tensor([[1, 5, *[IMAGE] * 8, 7, 8, 9]])
    small = model("hy_v4_vl", text_config={**text, **rope}, vision_config={"patch_size": 4, "max_image_size": 32})
    inputs: dict[str, Any] = {"input_ids": tokens, "pixel_values": noise(24, 48), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    return small, {**inputs, "mm_token_type_ids": (tokens == IMAGE).int()}


def inkling2_loop() -> Built:
    """Inkling 2, of whose four blocks the middle two are passed through twice; not listed, since no block has one state."""
    text = {
        "rel_extent": 16,
        "d_rel": 4,
        "sliding_window_size": 6,
        "layer_types": ["hybrid_sliding", "hybrid"] * 2,
        "n_layers_per_attn_res_block": 1,
    }
    sliding = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8}
    loop = {"loop_layer_index_start": 1, "loop_layer_index_end": 3, "loop_num_passes": 2, "loop_gate_rank": 4}
    vision = {"posemb_grid_size": 4, "projection_hidden_dim": 32, "patch_size": 4}
    small = model("inkling2_loop", text_config={**text, **sliding, **loop, "unpadded_vocab_size": 160}, vision_config=vision)
    tokens = torch.tensor([[1, 5, 147, *[IMAGE] * 6, 146, 7, 8, 9]])
    return small, {"input_ids": tokens, "pixel_values": noise(6, 8, 8, 3), "image_grid_thw": torch.tensor([[1, 2, 3]])}
