"""Tiny SAM 2 and SAM 3 trackers with random weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam3TrackerConfig, Sam3TrackerModel

HEADS = {
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 24},
}
SIZES = [[16, 16], [8, 8], [4, 4]]
HIERA = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": SIZES,
    "fpn_hidden_size": 32,
}
VIT = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "pretrain_image_size": 32,
        "window_size": 2,
        "global_attn_indexes": [1],
    },
    "fpn_hidden_size": 32,
    "backbone_feature_sizes": SIZES,
}


def tiny_sam2() -> Sam2Model:
    return _random(lambda: Sam2Model(Sam2Config(vision_config=HIERA, **HEADS)))


def tiny_sam2_video() -> Sam2VideoModel:
    """The class that the published checkpoints of SAM 2.1 name."""
    memory = {
        "memory_attention_hidden_size": 32,
        "memory_attention_feed_forward_hidden_size": 48,
        "memory_attention_num_layers": 1,
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 8,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 48,
        "mask_downsampler_embed_dim": 32,
        "memory_attention_rope_feat_sizes": [4, 4],
    }
    return _random(lambda: Sam2VideoModel(Sam2VideoConfig(vision_config=HIERA, image_size=64, **HEADS, **memory)))


def tiny_sam3_tracker(scales: tuple[float, ...] = (4.0, 2.0, 1.0)) -> Sam3TrackerModel:
    return _random(lambda: Sam3TrackerModel(Sam3TrackerConfig(vision_config={**VIT, "scale_factors": list(scales)}, **HEADS)))


def _random(build: object) -> nn.Module:
    """Weights of one size, so that no branch is dead; those of points are larger, so that a wrong label is more than rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()  # type: ignore[operator]
        for name, parameter in model.named_parameters():
            parameter.data.normal_(0.0, 6.0 if "point_embed" in name else 0.3)
    return model.eval()
