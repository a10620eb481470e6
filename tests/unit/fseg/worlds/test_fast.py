"""The forwards used in training say what the libraries' own forwards say."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from fseg.worlds.training import fast


def test_the_tower_gives_the_second_last_hidden_states_without_the_class_token() -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8)
    model = CLIPVisionModel(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        found = fast.tower(getattr(model, "vision_model", model), pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_packed_turns_are_as_if_each_were_asked_alone() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )
    model = LlamaModel(config).eval()
    model.set_attn_implementation("eager")
    prefix, turns = torch.randn(2, 5, 32), torch.randn(2, 3, 4, 32)
    with torch.no_grad():
        last, kept, rows = fast.decoder(model, prefix, turns, keep=(2,), rows=(1,))
        for k in range(3):
            alone = model(inputs_embeds=torch.cat([prefix, turns[:, k]], 1), output_hidden_states=True, output_attentions=True)
            torch.testing.assert_close(last[:, k], alone.last_hidden_state[:, 5:], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(kept[0][:, 5:].unflatten(1, (3, 4))[:, k], alone.hidden_states[2][:, 5:], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(rows[0].unflatten(2, (3, 4))[:, :, k], alone.attentions[1][:, :, 5:, :5], atol=1e-5, rtol=1e-4)


def test_relative_positions_as_features_equal_those_added_to_the_scores() -> None:
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT

    torch.manual_seed(0)
    model = ImageEncoderViT(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=16,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=(0, 1),
    )
    for name, weight in model.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(weight)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fast.sam_encoder(model, pixels), model(pixels), atol=1e-5, rtol=1e-4)
