"""Older families: the image stands before the text, beside it, or behind a Q-Former."""

from __future__ import annotations

import torch
import transformers as hf

from tests.families.tiny import IMAGE, TEXT, Built, family, ids, model, noise, pixels


@family()
def blip() -> Built:
    return model("blip"), {"input_ids": ids(0), "pixel_values": pixels(1)}


@family()
def git() -> Built:
    return model("git"), {"input_ids": ids(0), "pixel_values": pixels(1)}


@family()
def idefics() -> Built:
    return model("idefics"), {"input_ids": ids(0), "pixel_values": pixels(1, 1), "image_attention_mask": torch.ones(1, 8, 1)}


@family("kosmos-2")
def kosmos_2() -> Built:
    text = {"embed_dim": 32, "layers": 4, "attention_heads": 4}
    tokens = ids(4)
    inputs = {"input_ids": tokens, "pixel_values": pixels(1), "image_embeds_position_mask": (tokens == IMAGE).long()}
    return model("kosmos-2", text_config=text, latent_query_num=4), inputs


@family("kosmos-2.5")
def kosmos_2_5() -> Built:
    text = {"embed_dim": 32, "layers": 4, "attention_heads": 4}
    tokens = ids(4)
    position = torch.tensor([[row, col] for row in range(1, 5) for col in range(1, 5)])
    patches = torch.cat([position[None].float(), noise(1, 16, 48)], dim=-1)
    small = model("kosmos-2.5", text_config=text, vision_config={"patch_embed_hidden_size": 48, "head_dim": 12}, latent_query_num=4)
    return small, {"input_ids": tokens, "flattened_patches": patches, "image_embeds_position_mask": (tokens == IMAGE).long()}


@family()
def instructblipvideo() -> Built:
    qformer = {"num_hidden_layers": 2, "encoder_hidden_size": 24, "cross_attention_frequency": 1}
    small = model(
        "instructblipvideo", qformer_config=qformer, text_config=hf.LlamaConfig(**TEXT), num_query_tokens=4, video_token_index=IMAGE
    )
    return small, {"input_ids": ids(16), "pixel_values": pixels(1, 4), "qformer_input_ids": torch.tensor([[7, 8, 9]])}
