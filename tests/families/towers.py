"""Families with a tower of their own kind, or with none at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import transformers as hf
from torch import nn
from transformers import MODEL_MAPPING
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.families.tiny import IMAGE, VISION, Built, family, ids, model, noise, pixels, tiny

_GEMMA4_VISION = {
    **VISION,
    "patch_size": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pooling_kernel_size": 2,
    "position_embedding_size": 16,
}
_POSITIONS = torch.tensor([[[col, row] for row in range(4) for col in range(4)]])


class _Convolution(nn.Module):
    """Where timm's tower would stand: one convolution, states (batch, feature, row, col)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, kernel_size=patch, stride=patch)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values))


@contextmanager
def without_timm(edge: int = 7) -> Iterator[None]:
    """Within this, Gemma 3n is built with a tower of patches of so many pixels."""

    def made(config: Any) -> Any:
        return _Convolution(edge) if config.model_type == "gemma3n_vision" else MODEL_MAPPING[type(config)](config)

    with patch.object(hf.AutoModel, "from_config", made):
        yield


@family()
def gemma3n() -> Built:
    """Four residual streams; the timm tower's place is taken by one convolution a patch."""
    audio = {"vocab_size": 4, "vocab_offset": 156, "hidden_size": 16, "conf_num_hidden_layers": 1, "conf_num_attention_heads": 2}
    text = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 144, "laurel_rank": 8, "num_kv_shared_layers": 2}
    vision = {"hidden_size": 24, "vocab_size": 8, "vocab_offset": 148}
    parts = {"text_config": text, "vision_config": vision, "audio_config": {**audio, "sscp_conv_channel_size": (8, 8)}}
    with without_timm():
        small = model("gemma3n", vision_soft_tokens_per_image=16, **parts)
    return small, {"input_ids": ids(16), "pixel_values": pixels(1)}


@family()
def gemma4() -> Built:
    vision = tiny(hf.Gemma4VisionConfig, **_GEMMA4_VISION)
    text = {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 160,
        "global_head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    return model("gemma4", vision_config=vision, text_config=text), {
        "input_ids": ids(4),
        "pixel_values": noise(1, 16, 48),
        "image_position_ids": _POSITIONS,
    }


@family()
def gemma4_unified() -> Built:
    """No tower: pixels are projected to the decoder's width."""
    vision = {"model_type": "gemma4_unified_vision", "patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 24, "mm_posemb_size": 8}
    small = model("gemma4_unified", vision_config={**vision, "output_proj_dims": 24}, text_config={"global_head_dim": 8})
    return small, {"input_ids": ids(16), "pixel_values": noise(1, 16, 48), "image_position_ids": _POSITIONS}


@family()
def diffusion_gemma() -> Built:
    """An encoder reads the prompt, and a decoder with the same weights refines a canvas of 8 tokens."""
    text = {"global_head_dim": 8, "top_k_experts": 2}
    small = model("diffusion_gemma", vision_config=_GEMMA4_VISION, text_config=text, canvas_length=8)
    canvas = torch.tensor([[20, 21, 22, 23, 24, 25, 26, 27]])
    inputs = {"input_ids": ids(4), "pixel_values": noise(1, 16, 48), "image_position_ids": _POSITIONS}
    return small, {**inputs, "decoder_input_ids": canvas, "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int()}


@family()
def emu3() -> Built:
    """The image becomes words of the vocabulary, an end-of-line word after each row."""
    quantised = {"codebook_size": 16, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": (1, 1, 1)}
    words = {f"<|visual token {code:06d}|>": 100 + code for code in range(16)}
    vocabulary = {**words, "<|extra_200|>": 149, "<image>": IMAGE}
    rest = {"num_res_blocks": 1, "temporal_downsample_factor": 1, "attn_resolutions": (2,), "hidden_size": 32, "num_attention_heads": 1}
    small = model("emu3", vq_config={**quantised, **rest}, vocabulary_map=vocabulary)
    return small, {"input_ids": ids(4 * 5), "pixel_values": pixels(1, size=16), "image_sizes": torch.tensor([[16, 16]])}


@family()
def fuyu() -> Built:
    """No tower: pixels are projected to the decoder's width."""
    return model("fuyu", patch_size=4), {"input_ids": ids(16), "pixel_values": noise(1, 16, 48)}


@family()
def inkling_mm_model() -> Built:
    """No attention in the tower: each patch is folded into one token. Relative positions in addition to each block's attention."""
    text = {"rel_extent": 16, "d_rel": 4, "sliding_window_size": 6, "layer_types": ["hybrid_sliding", "hybrid"] * 2, "n_shared_experts": 1}
    sliding = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "logits_mup_width_multiplier": 1.0}
    small = model(
        "inkling_mm_model", text_config={**text, **sliding}, vision_config={"patch_size": 4}, audio_config={"text_hidden_size": 32}
    )
    return small, {"input_ids": ids(4), "pixel_values": noise(4, 2, 4, 4, 3)}


@family()
def molmo2() -> Built:
    """Each token attends to its own four patches."""
    vision = {"image_size": [28, 28], "head_dim": 12}
    adapter = {"vision_feature_layer": [2, 1], "hidden_size": 24, "head_dim": 12, "text_hidden_size": 32, "num_attention_heads": 2}
    small = model(
        "molmo2",
        image_patch_id=IMAGE,
        vision_config=vision,
        adapter_config={**adapter, "num_key_value_heads": 2},
        text_config={"additional_vocab_size": 8},
    )
    pooling = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    inputs = {"input_ids": ids(4), "pixel_values": noise(1, 16, 147), "image_token_pooling": pooling}
    return small, {**inputs, "image_grids": torch.tensor([[2, 2, 0, 0]]), "image_num_crops": torch.tensor([1])}


@family()
def nemotron_h_omni() -> Built:
    """Blocks of state-space layers, attention and experts; class tokens and registers before the patches."""
    blocks = {"layers_block_type": ["linear_attention", "full_attention", "moe", "full_attention"]}
    states = {"ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "chunk_size": 8}
    text = {**blocks, **states, "moe_shared_expert_intermediate_size": 16, "use_mamba_kernels": False}
    vision = tiny(hf.RadioConfig, **{**VISION, "patch_size": 4, "max_img_size": 32, "video_temporal_patch_size": 2})
    sizes = {"vision_hidden_size": 24, "projector_hidden_size": 32}
    small = model("nemotron_h_omni", text_config=text, vision_config=vision, **sizes)
    return small, {"input_ids": ids(4), "pixel_values": noise(16, 48), "image_grid_hw": torch.tensor([[4, 4]])}


def _minicpm(name: str, tokens: int) -> Built:
    """A window merger inside the tower, a merger after it."""
    small = model(name, vision_config={"image_size": 28, "insert_layer_id": 1}, insert_layer_id=1)
    inputs = {"input_ids": ids(tokens), "pixel_values": noise(1, 3, 7, 112), "target_sizes": torch.tensor([[4, 4]])}
    return small, {**inputs, "mm_token_type_ids": (ids(tokens) == IMAGE).int()} if name == "minicpmv4_7" else inputs


@family()
def minicpm_ocr() -> Built:
    return _minicpm("minicpm_ocr", 4)


@family()
def minicpmv4_6() -> Built:
    return _minicpm("minicpmv4_6", 1)


@family()
def minicpmv4_7() -> Built:
    return _minicpm("minicpmv4_7", 1)
