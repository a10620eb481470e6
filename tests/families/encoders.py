"""Tiny vision encoders without a decoder of words, each with its image processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import transformers

from tests.zoo import enliven

_SMALL: Mapping[str, Any] = MappingProxyType({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4})
_VISION: Mapping[str, Any] = MappingProxyType({**_SMALL, "image_size": 56, "patch_size": 14})
_TEXT: Mapping[str, Any] = MappingProxyType({**_SMALL, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
_SQUARE = {"height": 56, "width": 56}
_ANY_SIZE = {"patch_size": 14, "max_num_patches": 24}


def _cropped(kind: str, edge: int) -> Any:
    """An image processor that resizes the shorter edge and crops the centre."""
    return getattr(transformers, kind)(size={"shortest_edge": edge}, crop_size=_SQUARE)


def _stretched(kind: str, **options: Any) -> Any:
    return getattr(transformers, kind)(**{"size": _SQUARE, **options})


def _tower(kind: str, **changes: Any) -> Any:
    config = getattr(transformers, changes.pop("config", kind.replace("Model", "Config")))
    return getattr(transformers, kind)(config(**{**_VISION, **changes}))


def _two_towers(kind: str, **vision: Any) -> Any:
    """A model with a tower for words and one for images."""
    config = getattr(transformers, f"{kind}Config")(text_config=dict(_TEXT), vision_config=vision or dict(_VISION))
    return getattr(transformers, f"{kind}Model")(config)


_SIGLIP2 = {**_SMALL, "patch_size": 14, "num_patches": 16}
ENCODERS: Mapping[str, Callable[[], tuple[Any, Any]]] = MappingProxyType(
    {
        "clip": lambda: (_two_towers("CLIP"), _cropped("CLIPImageProcessor", 56)),
        "clip_vision_model": lambda: (_tower("CLIPVisionModel"), _cropped("CLIPImageProcessor", 56)),
        "metaclip_2": lambda: (_two_towers("MetaClip2"), _cropped("CLIPImageProcessor", 56)),
        "siglip": lambda: (_two_towers("Siglip"), _stretched("SiglipImageProcessor")),
        "siglip_vision_model": lambda: (_tower("SiglipVisionModel"), _stretched("SiglipImageProcessor")),
        "siglip2": lambda: (_two_towers("Siglip2", **_SIGLIP2), transformers.Siglip2ImageProcessor(**_ANY_SIZE)),
        "siglip2_vision_model": lambda: (
            transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**_SIGLIP2)),
            transformers.Siglip2ImageProcessor(**_ANY_SIZE),
        ),
        "dinov2": lambda: (_tower("Dinov2Model"), _cropped("BitImageProcessor", 64)),
        "dinov2_with_registers": lambda: (_tower("Dinov2WithRegistersModel", num_register_tokens=4), _cropped("BitImageProcessor", 64)),
        "dinov3_vit": lambda: (_tower("DINOv3ViTModel", num_register_tokens=4), _stretched("DINOv3ViTImageProcessor")),
        "vit": lambda: (_tower("ViTForImageClassification", config="ViTConfig"), _stretched("ViTImageProcessor")),
        "deit": lambda: (_tower("DeiTModel"), _stretched("DeiTImageProcessor", size={"height": 84, "width": 84}, crop_size=_SQUARE)),
        "beit": lambda: (_tower("BeitModel", vocab_size=30), _stretched("BeitImageProcessor", crop_size=_SQUARE)),
        "ijepa": lambda: (_tower("IJepaModel"), _stretched("ViTImageProcessor")),
        "vit_msn": lambda: (_tower("ViTMSNModel"), _stretched("ViTImageProcessor")),
    }
)
"""`config.model_type` -> a model with random weights, and its image processor at a tiny size."""


def build(name: str) -> tuple[Any, Any]:
    """The model and image processor, weights as large as trained ones."""
    torch.manual_seed(0)
    model, processor = ENCODERS[name]()
    return enliven(model), processor
