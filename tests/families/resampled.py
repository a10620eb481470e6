"""Families that resample, shuffle or quantise the image on its way into the sequence."""

from __future__ import annotations

from string import ascii_uppercase

import torch
import transformers as hf
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from tests.families.tiny import IMAGE, TEXT, VISION, Built, family, ids, model, pixels, tiny

_CONVOLUTIONS = {"base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 8}


@family()
def idefics2() -> Built:
    """A perceiver of 4 latents."""
    perceiver = {"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 8}
    config = tiny(hf.Idefics2Config, perceiver_config={**perceiver, "num_key_value_heads": 2}, text_config={"sliding_window": None})
    return hf.Idefics2ForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1, 1)}


@family()
def perception_lm() -> Built:
    """A CLIP tower replaces the timm tower; its last states look the same."""
    vision = hf.CLIPVisionConfig(**VISION, model_args={"embed_dim": 24})
    config = tiny(hf.PerceptionLMConfig, vision_config=vision, projector_pooling_ratio=2)
    return hf.PerceptionLMForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1, 1)}


@family()
def janus() -> Built:
    vision = JanusVisionConfig(**{**VISION, "num_image_tokens": 16, "projection_dim": 32, "mlp_ratio": 2.0})
    quantised = JanusVQVAEConfig(**_CONVOLUTIONS, num_embeddings=16, num_patches=4, projection_dim=32, image_token_embed_dim=32)
    config = tiny(hf.JanusConfig, vision_config=vision, vq_config=quantised)
    return hf.JanusForConditionalGeneration(config), {"input_ids": ids(16), "pixel_values": pixels(1)}


@family()
def fast_vlm() -> Built:
    """A ResNet replaces the timm tower; its last states (batch, feature, row, col) look the same."""
    vision = hf.ResNetConfig(embedding_size=8, hidden_sizes=[12, 24], depths=[1, 1], layer_type="basic", hidden_size=24)
    config = tiny(hf.FastVlmConfig, vision_config=vision)
    return hf.FastVlmForConditionalGeneration(config), {"input_ids": ids(16), "pixel_values": pixels(1, size=32)}


@family()
def llama4() -> Built:
    """Experts in every other block, chunks of 6 tokens attended within; patches shuffled four into one."""
    text = {"intermediate_size_mlp": 64, "attention_chunk_size": 6, "no_rope_layers": [1, 0, 1, 0], "interleave_moe_layer_step": 2}
    vision = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "intermediate_size": 96}
    config = tiny(hf.Llama4Config, text_config=text, vision_config=vision)
    return hf.Llama4ForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def chameleon() -> Built:
    """The image becomes words of the vocabulary, which the model looks up as any other."""
    words = {f"IMGIMG{ascii_uppercase[code // 10]}{ascii_uppercase[code % 10]}Z": 100 + code for code in range(16)}
    quantised = {**_CONVOLUTIONS, "num_embeddings": 16, "resolution": 16, "attn_resolutions": None}
    config = tiny(hf.ChameleonConfig, vq_config=quantised, vocabulary_map={**words, "<image>": IMAGE})
    return hf.ChameleonForConditionalGeneration(config), {"input_ids": ids(16), "pixel_values": pixels(1, size=16)}


_SAM = {"output_channels": 16, "mlp_dim": 48, "window_size": 2, "global_attn_indexes": [2], "image_size": 56}


@family()
def got_ocr2() -> Built:
    """SAM's tower: windowed blocks and two convolutions of stride 2."""
    return model("got_ocr2", vision_config=_SAM), {"input_ids": ids(4), "pixel_values": pixels(1, size=56)}


@family()
def pp_chart2table() -> Built:
    """GOT-OCR 2 under another name."""
    return model("pp_chart2table", vision_config=_SAM), {"input_ids": ids(4), "pixel_values": pixels(1, size=56)}


_QFORMER = {"num_hidden_layers": 2, "encoder_hidden_size": 24, "cross_attention_frequency": 1}


@family("blip-2")
def blip_2() -> Built:
    config = tiny(hf.Blip2Config, qformer_config=_QFORMER, num_query_tokens=4)
    return hf.Blip2ForConditionalGeneration(config), {"input_ids": ids(4), "pixel_values": pixels(1)}


@family()
def instructblip() -> Built:
    """The Q-Former reads the question with the image."""
    text = hf.LlamaConfig(**TEXT)
    config = tiny(hf.InstructBlipConfig, qformer_config=_QFORMER, text_config=text, num_query_tokens=4)
    question = torch.tensor([[7, 8, 9]])
    inputs = {"input_ids": ids(4), "pixel_values": pixels(1), "qformer_input_ids": question}
    return hf.InstructBlipForConditionalGeneration(config), inputs
