"""The method on other families, whose image grids are known: none of these recipes was calibrated on a data set.

Layers are the paper's, 7 to 13 of 32, as shares of the depth. `fseg calibrate` finds a band, alpha and beta for a checkpoint.
"""

from __future__ import annotations

from fseg.checkpoints import Backbone
from fseg.recipe import Recipe
from fseg.stages.qap import Ask
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond

_CHECKPOINTS = {
    "fseg-qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "fseg-qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "fseg-internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
    "fseg-gemma-3-12b": "google/gemma-3-12b-it",
    "fseg-llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "fseg-smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
}


def _recipe(name: str, checkpoint: str) -> Recipe:
    return Recipe(
        name=name,
        backbone=Backbone(checkpoint, prepare="processor"),
        ask=Ask(gate=True),
        respond=Respond("D*M_A", {"layers": (0.22, 0.41)}),
        sam=Sam("facebook/sam-vit-huge"),
        note="not calibrated",
    )


FAMILIES = tuple(_recipe(name, checkpoint) for name, checkpoint in _CHECKPOINTS.items())
