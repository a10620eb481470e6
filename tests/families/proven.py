"""The families whose grids are proved in tests/contract/test_grids.py."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from tests.families.tiny import IMAGE, SIGLIP, TEXT, VISION, Built, family, ids, pixels


@family()
def llava_onevision() -> Built:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 28]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    inputs = {"input_ids": ids(16 + 16 + 4), "pixel_values": pixels(1, 2), "image_sizes": torch.tensor([[28, 28]])}
    return hf.LlavaOnevisionForConditionalGeneration(config), inputs


@family()
def vipllava() -> Built:
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -1, 1],
    )
    return hf.VipLlavaForConditionalGeneration(config), {"input_ids": ids(16), "pixel_values": pixels(1)}


@family()
def paligemma() -> Built:
    text = {"model_type": "gemma", **TEXT, "head_dim": 8}
    config = hf.PaliGemmaConfig(vision_config=SIGLIP, text_config=text, image_token_index=IMAGE, projection_dim=32, vocab_size=160)
    tokens = ids(16)
    inputs = {"input_ids": tokens, "pixel_values": pixels(1), "token_type_ids": torch.zeros_like(tokens)}
    return hf.PaliGemmaForConditionalGeneration(config), inputs


@family()
def gemma3() -> Built:
    """Sliding windows, query and key norms, attention in both directions within the image."""
    config = hf.Gemma3Config(
        vision_config=SIGLIP,
        text_config=hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
        image_token_index=IMAGE,
        mm_tokens_per_image=4,
        boi_token_index=148,
        eoi_token_index=149,
    )
    tokens = ids(4)
    return hf.Gemma3ForConditionalGeneration(config), {
        "input_ids": tokens,
        "pixel_values": pixels(1),
        "token_type_ids": (tokens == IMAGE).long(),
    }


@family()
def internvl() -> Built:
    vision = hf.InternVLVisionConfig(**{**VISION, "image_size": [28, 28], "patch_size": [7, 7]})
    config = hf.InternVLConfig(vision_config=vision, text_config=hf.Qwen2Config(**TEXT), image_token_id=IMAGE)
    return hf.InternVLForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


def _qwen(kind: str, **vision: Any) -> Built:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    config = getattr(hf, f"{kind}Config")(
        text_config={**TEXT, "head_dim": 8, "rope_scaling": rope, "rope_parameters": rope},
        vision_config={"depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        image_token_id=IMAGE,
        vision_start_token_id=147,
        vision_end_token_id=146,
        video_token_id=145,
    )
    tokens = torch.tensor([[1, 5, 147, *[IMAGE] * 6, 146, 7, 8, 9]])
    inputs = {
        "input_ids": tokens,
        "pixel_values": torch.randn(24, 3 * 2 * 16, generator=torch.Generator().manual_seed(1)),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": (tokens == IMAGE).int(),
    }
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), inputs


@family()
def qwen2_vl() -> Built:
    return _qwen("Qwen2VL", embed_dim=24, hidden_size=32)


@family()
def qwen2_5_vl() -> Built:
    return _qwen("Qwen2_5_VL", hidden_size=24, intermediate_size=48, out_hidden_size=32, window_size=16, fullatt_block_indexes=[2])


@family()
def qwen3_vl() -> Built:
    """Visual states are added between the decoder's blocks, so a block's output is not the next one's input."""
    return _qwen(
        "Qwen3VL",
        hidden_size=24,
        intermediate_size=48,
        out_hidden_size=32,
        deepstack_visual_indexes=[0, 1],
        num_position_embeddings=16,
    )


@family()
def idefics3() -> Built:
    config = hf.Idefics3Config(
        vision_config=hf.Idefics3VisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2
    )
    return hf.Idefics3ForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1, 1)}


@family()
def smolvlm() -> Built:
    config = hf.SmolVLMConfig(
        vision_config=hf.SmolVLMVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2
    )
    return hf.SmolVLMForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1, 1)}


@family()
def mistral3() -> Built:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION),
        text_config=hf.MistralConfig(**TEXT, head_dim=8),
        image_token_index=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    inputs = {"input_ids": ids(4), "pixel_values": pixels(1), "image_sizes": torch.tensor([[28, 28]])}
    return hf.Mistral3ForConditionalGeneration(config), inputs


@family()
def aya_vision() -> Built:
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.Cohere2Config(**TEXT, head_dim=8, sliding_window=6),
        image_token_index=IMAGE,
        alignment_intermediate_size=48,
    )
    return hf.AyaVisionForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def cohere2_vision() -> Built:
    config = hf.Cohere2VisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.Cohere2Config(**TEXT, head_dim=8, sliding_window=6),
        image_token_id=IMAGE,
        alignment_intermediate_size=48,
    )
    return hf.Cohere2VisionForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def glm4v() -> Built:
    return _qwen(
        "Glm4v",
        hidden_size=24,
        intermediate_size=48,
        out_hidden_size=32,
        image_size=28,
    )


@family()
def ovis2() -> Built:
    """Image tokens are mixtures of a visual vocabulary; the tokens between them have embeddings of their own from it."""
    vision = hf.Ovis2VisionConfig(**VISION, vocab_size=64, hidden_stride=2)
    config = hf.Ovis2Config(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[149, 148, 147, 146, 145],
        hidden_size=32,
        vocab_size=160,
    )
    return hf.Ovis2ForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def lfm2_vl() -> Built:
    """Convolutions in two of the decoder's blocks; a tower for images of any size."""
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    text = hf.Lfm2Config(**TEXT, layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False)
    config = hf.Lfm2VlConfig(
        vision_config=hf.Siglip2VisionConfig(**vision, num_patches=16), text_config=text, image_token_id=IMAGE, projector_hidden_size=48
    )
    inputs = {
        "input_ids": ids(4),
        "pixel_values": torch.randn(1, 16, 3 * 49, generator=torch.Generator().manual_seed(1)),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int32),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }
    return hf.Lfm2VlForConditionalGeneration(config), inputs


@family()
def pixtral() -> Built:
    """Pixtral 12B: a LLaVA whose tower takes images of any size."""
    config = hf.LlavaConfig(
        vision_config=hf.PixtralVisionConfig(**VISION),
        text_config=hf.MistralConfig(**TEXT, head_dim=8),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    inputs = {"input_ids": ids(16), "pixel_values": pixels(1), "image_sizes": torch.tensor([[28, 28]])}
    return hf.LlavaForConditionalGeneration(config), inputs


@family()
def mllama() -> Built:
    """Blocks 1 and 3 attend across to vision features; one image token stands for the image."""
    vision = MllamaVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_global_layers=2,
        attention_heads=2,
        image_size=28,
        patch_size=7,
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
        vision_output_dim=24 * 3,
        intermediate_layers_indices=[0, 1],
    )
    text = MllamaTextConfig(**TEXT, cross_attention_layers=[1, 3])
    tokens = ids(1)
    inputs = {
        "input_ids": tokens,
        "pixel_values": pixels(1, 1, 1),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1]]]),
        "cross_attention_mask": torch.ones(1, tokens.shape[1], 1, 1, dtype=torch.long),
    }
    return hf.MllamaForConditionalGeneration(hf.MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)), inputs
