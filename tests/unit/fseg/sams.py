"""A tiny SAM with random weights, and the same weights under the names that transformers gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# isort: split

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor
from transformers import SamConfig, SamModel

from fseg.sam.network import PIXEL_MEAN, PIXEL_STD
from fseg.sam.shapes import DECODER_HEADS, shape_of


def tiny_sam(seed: int = 0) -> Sam:
    """64 x 64 pixels in, 8 x 8 patches; block 0 and 2 attend in windows of 3 patches, block 1 everywhere; no weight is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam(
            image_encoder=ImageEncoderViT(
                img_size=64,
                patch_size=8,
                embed_dim=32,
                depth=3,
                num_heads=2,
                mlp_ratio=3,
                out_chans=32,
                norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            prompt_encoder=PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=8),
            mask_decoder=MaskDecoder(
                transformer_dim=32,
                transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48),
                iou_head_depth=3,
                iou_head_hidden_dim=24,
            ),
            pixel_mean=list(PIXEL_MEAN),
            pixel_std=list(PIXEL_STD),
        )
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.3)
    return model.eval()


def noise(width: int = 70, height: int = 45, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
)


def to_transformers(state: Mapping[str, Tensor]) -> SamModel:
    """transformers' `SamModel` with the weights of a segment-anything Sam.

    The norms of the decoder get the epsilon that segment-anything uses, 1e-5; transformers' own default is 1e-6.
    """
    shape = shape_of(state)
    model = SamModel(
        SamConfig(
            vision_config={
                "image_size": shape.image_side,
                "patch_size": shape.patch,
                "hidden_size": shape.width,
                "num_hidden_layers": shape.depth,
                "num_attention_heads": shape.heads,
                "mlp_dim": shape.mlp_width,
                "window_size": shape.window,
                "global_attn_indexes": list(shape.global_blocks),
                "output_channels": shape.channels,
                "num_pos_feats": shape.channels // 2,
            },
            prompt_encoder_config={
                "hidden_size": shape.channels,
                "image_size": shape.image_side,
                "patch_size": shape.patch,
                "mask_input_channels": shape.mask_channels,
            },
            mask_decoder_config={
                "hidden_size": shape.channels,
                "num_hidden_layers": shape.decoder_depth,
                "mlp_dim": shape.decoder_mlp_width,
                "num_attention_heads": DECODER_HEADS,
                "attention_downsample_rate": shape.decoder_downsample,
                "num_multimask_outputs": shape.mask_tokens - 1,
                "iou_head_depth": shape.score_depth,
                "iou_head_hidden_dim": shape.score_width,
                "layer_norm_eps": 1e-5,
            },
        )
    )
    renamed = {_renamed(name, shape.score_depth): value for name, value in state.items()}
    renamed["shared_image_embedding.positional_embedding"] = renamed["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(renamed)
    return model.eval()


def _renamed(name: str, score_depth: int) -> str:
    for pattern, theirs in _NAMES:
        name = re.sub(pattern, theirs, name)
    head = re.match(r"(.*(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)layers\.(\d+)(\..*)", name)
    if head is None:
        return name
    depth = score_depth if "iou" in name else 3
    layer = int(head[2])
    return head[1] + ("proj_in" if layer == 0 else "proj_out" if layer == depth - 1 else f"layers.{layer - 1}") + head[3]
