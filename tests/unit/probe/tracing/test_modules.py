"""Where discovery looks, in families that do not put things where most do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from probe.errors import LoadError
from probe.tracing.modules import discover
from tests import families


def test_blocks_of_an_encoder_decoder_are_its_decoders() -> None:
    found = discover(families.build("florence2")[0])
    assert found.layers[0] == "model.language_model.decoder.layers.0"
    assert found.attention[0] == "model.language_model.decoder.layers.0.self_attn"


def test_a_tower_inside_an_encoder_of_words_is_found() -> None:
    assert discover(families.build("t5gemma2")[0]).vision == "model.encoder.vision_tower"


def test_attention_is_the_part_that_calls_the_interface() -> None:
    assert discover(families.build("udop")[0]).attention[0] == "decoder.block.0.layer.0.SelfAttention"


def test_blocks_without_attention_have_none() -> None:
    assert [path is not None for path in discover(families.build("qwen3_5")[0]).attention] == [False, False, False, True]


def test_where_transformers_records_nothing_the_norm_behind_the_blocks_ends_them() -> None:
    found = discover(families.build("pix2struct")[0])
    assert found.layers == tuple(f"decoder.layer.{i}" for i in range(4))
    assert found.last == "decoder.final_layer_norm"


def test_a_model_without_decoder_blocks_is_refused() -> None:
    class Bare(nn.Module):
        config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(num_hidden_layers=4))

        def get_decoder(self) -> nn.Module:
            return nn.Linear(2, 2)

    with pytest.raises(LoadError, match=r"Bare has no list of 4 decoder blocks inside Linear\. Register a backbone for it"):
        discover(Bare())
