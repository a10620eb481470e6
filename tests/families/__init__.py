"""Tiny random models of the families, and an encoded input with an image for each.

Built from configurations; weights as large as trained ones, so that no branch is dead.
"""

from __future__ import annotations

import torch

from tests.families import captioners, encoder_decoders, llava_like, proven, qwen_like, resampled, towers
from tests.families.tiny import FAMILIES, Built
from tests.zoo import enliven

__all__ = ["FAMILIES", "build", "captioners", "encoder_decoders", "llava_like", "proven", "qwen_like", "resampled", "towers"]


def build(name: str) -> Built:
    """The model and input of a family."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    return enliven(model), inputs
