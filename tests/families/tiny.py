"""What the tiny models share: sizes, token ids, images, and a way to make any configuration small."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

IMAGE = 150
TEXT: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
SIGLIP = {"model_type": "siglip_vision_model", **VISION}
# Names that families of their own gave to the same sizes.
_TEXT_NAMES = {
    "head_dim": 8,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "sliding_window": 6,
}
_VISION_NAMES = {
    "depth": 3,
    "num_heads": 2,
    "embed_dim": 24,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "text_hidden_size": 32,
    "num_key_value_heads": 2,
    "num_position_embeddings": 16,
}
_TOKENS = {
    "image_token_id": IMAGE,
    "image_token_index": IMAGE,
    "vision_start_token_id": 147,
    "vision_end_token_id": 146,
    "image_start_token_id": 147,
    "image_end_token_id": 146,
    "video_token_id": 145,
    "video_token_index": 145,
    "video_start_token_id": 144,
    "video_end_token_id": 143,
    "audio_token_id": 142,
    "boi_token_id": 147,
    "eoi_token_id": 146,
    "boi_token_index": 147,
    "eoi_token_index": 146,
}
Built = tuple[Any, dict[str, Any]]
FAMILIES: dict[str, Callable[[], Built]] = {}
"""Family -> its tiny model and an encoded input with an image."""


def family(*names: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """List a tiny model under its `config.model_type`, where that is not the function's own name, or under several."""

    def listed(build: Callable[[], Built]) -> Callable[[], Built]:
        FAMILIES.update(dict.fromkeys(names or (build.__name__,), build))
        return build

    return listed


def tiny(kind: type[Any], **changes: Any) -> Any:
    """A small configuration of a class: its defaults, the sizes above wherever it has a field of that name, then the changes.

    Args:
        changes: fields; those of a sub-configuration as a dictionary, or the sub-configuration itself.
    """
    return _made(kind, {**TEXT, **_TEXT_NAMES, **_TOKENS}, changes)


def _made(kind: type[Any], sizes: dict[str, Any], changes: dict[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in sizes.items() if name in fields} | changes
    for name, part in vars(kind()).items():
        change = changes.get(name, {})
        if hasattr(part, "to_dict") and name in fields and isinstance(change, dict):
            tower = "vision" in name or sizes.get("patch_size")
            given[name] = _made(type(part), {**VISION, **_VISION_NAMES} if tower else sizes, change)
    return kind(**given)


def ids(images: int) -> torch.Tensor:
    """A prompt with that many image tokens: (1, token)."""
    return torch.tensor([[1, 5, 6, *[IMAGE] * images, 7, 8, 9, 10, 11]])


def pixels(*leading: int, size: int = 28) -> torch.Tensor:
    """An image of noise: (*leading, 3, size, size)."""
    return noise(*leading, 3, size, size)


def noise(*shape: int) -> torch.Tensor:
    """The same noise each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def model(name: str, **changes: Any) -> Any:
    """The image-text-to-text model of a `config.model_type`, made small with these changes (see `tiny`)."""
    return AutoModelForImageTextToText.from_config(tiny(CONFIG_MAPPING[name], **changes))
