"""Families whose decoder attends across to an encoder of the image, or of the image and the prompt."""

from __future__ import annotations

import torch
import transformers as hf

from tests.families.tiny import IMAGE, SIGLIP, TEXT, VISION, Built, family, ids, model, noise, pixels

_ANSWER = torch.tensor([[2, 7, 8, 9, 10, 11]])
_LAYERS = {
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 4,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}


@family()
def florence2() -> Built:
    """BART's decoder attends across to a BART encoder, which reads the image's tokens with the prompt."""
    vision = {
        "depths": (1, 1),
        "patch_size": (7, 3),
        "patch_stride": (4, 2),
        "patch_padding": (3, 1),
        "patch_prenorm": (False, True),
        "embed_dim": (12, 24),
        "num_heads": (2, 2),
        "num_groups": (2, 2),
        "window_size": 4,
    }
    text = {"d_model": 32, **_LAYERS}
    small = model("florence2", vision_config=vision, text_config=text)
    return small, {"input_ids": ids(16 + 1), "pixel_values": pixels(1, size=32), "decoder_input_ids": _ANSWER}


@family()
def pix2struct() -> Built:
    position = torch.tensor([[row, col] for row in range(1, 5) for col in range(1, 5)])
    patches = torch.cat([position[None].float(), noise(1, 16, 48)], dim=-1)
    text = {"d_kv": 8, "d_ff": 64, "num_layers": 4, "num_heads": 4}
    vision = {"patch_embed_hidden_size": 48, "hidden_size": 32, "d_ff": 48, "d_kv": 16, "seq_len": 16}
    return model("pix2struct", text_config=text, vision_config=vision), {"flattened_patches": patches, "decoder_input_ids": _ANSWER}


@family()
def pp_formulanet() -> Built:
    vision = {"output_channels": 16, "mlp_dim": 48, "window_size": 2, "global_attn_indexes": [2], "image_size": 56}
    channels = {"post_conv_in_channels": 16, "post_conv_mid_channels": 16, "post_conv_out_channels": 16, "decoder_hidden_size": 32}
    small = model("pp_formulanet", text_config={"d_model": 32, **_LAYERS}, vision_config={**vision, **channels})
    return small, {"pixel_values": pixels(1, size=56), "decoder_input_ids": _ANSWER}


@family()
def t5gemma2() -> Built:
    """One softmax over the answer's own tokens and the encoder's together."""
    sizes = {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6}
    encoder = {"text_config": sizes, "vision_config": SIGLIP, "mm_tokens_per_image": 4, "image_token_index": IMAGE, "eoi_token_index": 146}
    config = hf.T5Gemma2Config(encoder=encoder, decoder=sizes, image_token_index=IMAGE, eoi_token_index=146)
    small = hf.T5Gemma2ForConditionalGeneration(config)
    return small, {"input_ids": ids(4), "pixel_values": pixels(1), "decoder_input_ids": _ANSWER}


@family()
def udop() -> Built:
    """Words with the boxes where they stand on the page; patches without a word join the sequence."""
    small = model("udop", d_model=32, d_kv=8, d_ff=64, num_layers=4, num_decoder_layers=4, num_heads=4, image_size=28, patch_size=7)
    tokens = ids(0)
    boxes = torch.rand(1, tokens.shape[1], 4, generator=torch.Generator().manual_seed(1)).sort(-1).values
    return small, {"input_ids": tokens, "bbox": boxes, "pixel_values": pixels(1), "decoder_input_ids": _ANSWER}


@family("vision-encoder-decoder")
def vision_encoder_decoder() -> Built:
    """MBart's decoder, as Donut has it."""
    encoder = hf.ViTConfig(**VISION)
    decoder = hf.MBartConfig(vocab_size=160, d_model=32, **_LAYERS)
    small = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    return small, {"pixel_values": pixels(1), "decoder_input_ids": _ANSWER}
