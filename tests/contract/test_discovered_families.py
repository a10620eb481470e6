"""What discovery finds in each family is read exactly, from a plain encoding. Float32, largest absolute difference.

Hidden states are those of the same kernel: 0. Attention rows are compared with a separate eager forward, whose hidden states have drifted
from sdpa's by the order of sums, more where states are large (Gemma scales its embeddings): 1e-5.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import probe
from tests import families


@pytest.mark.parametrize("name", families.FAMILIES)
def test_reads_equal_hugging_face(name: str) -> None:
    hf, inputs = families.build(name)
    model = probe.load(model=hf)
    reads = [probe.Hidden("all"), probe.Attention("all", query=[-1, -2])]
    trace = model.run(inputs, reads)
    with torch.no_grad():
        states = hf(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        hf.set_attn_implementation("eager")
        eager: Any = hf(**inputs, output_attentions=True, use_cache=False).attentions
    assert len(states) == len(model.modules.layers) + 1
    for layer, theirs in enumerate(states):
        assert float((trace.hidden(layer=layer).data - theirs).abs().max()) == 0
    blocks = [block for block, path in enumerate(model.modules.attention) if path is not None]
    for block, weights in zip(blocks, eager, strict=True):
        rows = trace.attention(layer=block).data
        theirs = weights[:, :, [-1, -2]]
        assert rows.shape == theirs.shape
        assert float((rows - theirs).abs().max()) < 1e-5
    assert max(trace.row_differences.values()) < 1e-5


@pytest.mark.parametrize("name", [name for name in families.FAMILIES if name != "mllama"])
def test_projected_tokens_are_what_the_model_scatters_into_its_embeddings(name: str) -> None:
    hf, inputs = families.build(name)
    trace = probe.load(model=hf).run(inputs, [probe.Projected()])
    rest = {
        key: value for key, value in inputs.items() if key in ("image_sizes", "image_grid_thw", "spatial_shapes", "pixel_attention_mask")
    }
    with torch.no_grad():
        features = hf.get_image_features(inputs["pixel_values"], return_dict=True, **rest).pooler_output
    theirs = torch.cat(list(features)).flatten(0, -2) if isinstance(features, (list, tuple)) else features.flatten(0, -2)
    assert float((trace.projected().data[0] - theirs).abs().max()) == 0


def test_cross_attention_has_keys_of_its_own() -> None:
    hf, inputs = families.build("mllama")
    model = probe.load(model=hf)
    trace = model.run(inputs, probe.Attention("all", query=-1))
    assert trace.attention(layer=0).shape["key"] == 9
    assert trace.attention(layer=1).shape["key"] == 17  # 4 x 4 patches and a class token of one tile
    with pytest.raises(probe.errors.NotRead, match="attend to different keys"):
        trace.attention()
    with pytest.raises(probe.errors.InvalidRead, match="attends to 17 vision features, not to the sequence of 9 tokens"):
        model.run(inputs, probe.Attention([1], query=-1, key="image"))
    assert model.run(inputs, probe.Attention([0], query=-1, key="image")).attention().shape["key"] == 1
