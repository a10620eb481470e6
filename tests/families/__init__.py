"""Tiny random models of the families, and an encoded input with an image for each.

Built from configurations; weights as large as trained ones, so that no branch is dead.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tests.families import captioners, encoder_decoders, llava_like, newer, proven, qwen_like, resampled, towers
from tests.families.tiny import FAMILIES, Built
from tests.zoo import enliven

__all__ = ["FAMILIES", "build", "captioners", "encoder_decoders", "llava_like", "newer", "proven", "qwen_like", "resampled", "towers"]


def build(name: str) -> Built:
    """The model and input of a family; a test of one that the installed transformers lacks is skipped."""
    skip_if_lacking(name)
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    return enliven(model), inputs


def skip_if_lacking(name: str) -> None:
    """Skip the running test if the installed transformers does not have this `config.model_type`."""
    if is_lacking(name):
        pytest.skip(f"transformers {transformers.__version__} does not have {name}")


def is_lacking(name: str) -> bool:
    """Whether the installed transformers does not have this `config.model_type`."""
    return name != "pixtral" and name not in CONFIG_MAPPING_NAMES  # pixtral is a tower of llava
