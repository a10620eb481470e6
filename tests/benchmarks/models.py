"""The models that are measured: LLaVA-1.5 in three sizes, with random weights but for the embedded one, and 576 image tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

import probe
from tests import zoo

Size = Literal["embedded", "mid", "full"]


@cache
def opened(size: Size) -> probe.Probe:
    """A model, its pictures resized directly; on a GPU if there is one, the full size in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if size == "embedded":
        from fseg.glyphs import llava_folder

        return probe.load(llava_folder(), device=device, dtype="float32", resize="stretch", tiles=False)
    model, processor = _mid() if size == "mid" else _full(device)
    return probe.load(model=model, processor=processor, device=device, resize="stretch", tiles=False)


def many_if_short(size: Size, repeats: int) -> int:
    """How often to repeat one forward: a disturbed run weighs much where it takes less than 0.1 s."""
    return max(repeats, 100) if size == "embedded" else repeats


def picture(height: int = 480, width: int = 640) -> Image.Image:
    """A picture of noise in blocks."""
    blocks = np.random.default_rng(0).integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(40, 0).repeat(40, 1))


def _mid() -> tuple[Any, Any]:
    """512 wide, 16 blocks, in float32."""
    text = LlamaConfig(hidden_size=512, intermediate_size=1376, num_hidden_layers=16, num_attention_heads=8, **_words())
    vision = CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4, image_size=336, patch_size=14
    )
    return zoo.enliven(LlavaForConditionalGeneration(_config(text, vision))), _processor()


def _full(device: str) -> tuple[Any, Any]:
    """LLaVA-1.5-7B's dimensions, in bfloat16."""
    text = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, **_words())
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlavaForConditionalGeneration(_config(text, vision)), _processor()
    finally:
        torch.set_default_dtype(before)


def _words() -> dict[str, Any]:
    return {"vocab_size": 32064, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _config(text: LlamaConfig, vision: CLIPVisionConfig) -> LlavaConfig:
    token = zoo.tokenizer().convert_tokens_to_ids("<image>")
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=token, vision_feature_layer=-2, vision_feature_select_strategy="default"
    )


def _processor() -> LlavaProcessor:
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        zoo.tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=zoo.VICUNA_TEMPLATE,
    )
