"""The paper's four recipes (section 4.2): one method, with l_e and beta for each language model.

The gate only saves time: if yes has the smaller logit, the answer cannot begin with it, so it is not generated.
"""

from __future__ import annotations

from fseg.recipe import Recipe
from fseg.stages.qap import Ask
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond


def _recipe(name: str, backbone: str, template: str, last_layer: int, beta: float) -> Recipe:
    return Recipe(
        name=name,
        backbone=backbone,
        ask=Ask(template=template, gate=True),
        respond=Respond("D*M_A", {"layers": (7, last_layer), "alpha": 0.75, "beta": beta}),
        sam=Sam("facebook/sam-vit-huge"),
    )


LLAVA_1_5_VICUNA_7B = _recipe("fseg-llava-1.5-vicuna-7b", "llava-hf/llava-1.5-7b-hf", "vicuna_v1", 13, 0.19)
LLAVA_1_6_MISTRAL_7B = _recipe("fseg-llava-1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", "mistral_instruct", 13, 0.16)
LLAVA_1_6_VICUNA_7B = _recipe("fseg-llava-1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", "vicuna_v1", 13, 0.19)
LLAVA_1_6_VICUNA_13B = _recipe("fseg-llava-1.6-vicuna-13b", "llava-hf/llava-v1.6-vicuna-13b-hf", "vicuna_v1", 23, 0.19)

PAPER = (LLAVA_1_5_VICUNA_7B, LLAVA_1_6_MISTRAL_7B, LLAVA_1_6_VICUNA_7B, LLAVA_1_6_VICUNA_13B)
