"""Tiny models of text alone, and of sound and text: causal language models without an image in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMultimodalLM

from tests.zoo import enliven

_TEXT: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 32064,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
)
_CHANGES: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "llama": {},
        "qwen3": {"head_dim": 12},
        "gemma3_text": {"head_dim": 12, "sliding_window": 6},
        "mistral": {"sliding_window": 6},
        "mixtral": {"num_local_experts": 4},
        "gpt2": {"n_embd": 48, "n_layer": 4, "n_head": 4},
        "gpt_neox": {},
        "mamba": {},
        "qwen2": {},
        "qwen3_moe": {"head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "gemma": {"head_dim": 12},
        "gemma2": {"head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 12},
        "phi3": {},
        "olmo2": {},
        "granite": {},
        "smollm3": {},
        "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
        "falcon_h1": {"mamba_chunk_size": 8},
        "qwen3_next": {
            "head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    }
)
_AUDIO: Mapping[str, Any] = MappingProxyType({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_mel_bins": 16})
AUDIO = 3
"""The id of audio tokens."""


def _causal(name: str) -> Any:
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**_TEXT, **_CHANGES[name]}))


def _qwen2_audio() -> Any:
    encoder = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 16}
    audio = {"model_type": "qwen2_audio_encoder", **encoder, "max_source_positions": 20}
    config = CONFIG_MAPPING["qwen2_audio"](audio_config=audio, text_config={"model_type": "qwen2", **_TEXT}, audio_token_index=AUDIO)
    return AutoModelForMultimodalLM.from_config(config)


def _voxtral() -> Any:
    audio = {"model_type": "voxtral_encoder", **_AUDIO, "intermediate_size": 128, "max_source_positions": 20}
    config = CONFIG_MAPPING["voxtral"](audio_config=audio, text_config={"model_type": "llama", **_TEXT}, audio_token_id=AUDIO)
    return AutoModelForMultimodalLM.from_config(config)


def _phi4_multimodal() -> Any:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    vision = {**small, "num_hidden_layers": 3, "image_size": 28, "patch_size": 7, "crop_size": 28}
    audio = {**small, "num_blocks": 2, "ext_pw_out_channel": 32, "nemo_conv_channels": 32}
    return AutoModelForMultimodalLM.from_config(CONFIG_MAPPING["phi4_multimodal"](**_TEXT, vision_config=vision, audio_config=audio))


WITH_SOUND: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"qwen2_audio": _qwen2_audio, "voxtral": _voxtral, "phi4_multimodal": _phi4_multimodal}
)
TEXT_MODELS = (*_CHANGES, *WITH_SOUND)
"""The `config.model_type` of each."""


def build(name: str) -> Any:
    """The tiny model of a `config.model_type`, its weights as large as trained ones."""
    torch.manual_seed(0)
    return enliven(WITH_SOUND[name]() if name in WITH_SOUND else _causal(name))
