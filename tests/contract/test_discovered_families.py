"""Every image-text-to-text model of transformers, built tiny: what discovery finds in it is read exactly, with an image in the input.

Hidden states, logits, vision states and projected tokens are those of the same kernel: 0. Attention rows times values are the attention
call's own output to 5e-6 of a head's largest value. A separate eager forward has drifted from the kernel's by the order of sums, more where
states are large (Gemma scales its embeddings): 1e-4.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import probe
from probe.backbones.registry import BACKBONES
from probe.inputs.encoding import Encoding
from probe.tokens.spans import TokenMap
from tests import families
from tests.contract.parity import NOT_THE_FEATURES, measure
from tests.families.daily import daily

NO_IMAGES = {"mistral4", "evolla", "pi0"}  # text alone, proteins, a robot's actions
LOOPED = {"inkling2_loop"}  # blocks that are passed through several times have no one state: test_newer_families.py
# No token id marks an image in the decoder's sequence; several residual streams enter the first block; no tower of blocks.
UNREADABLE = [
    *((name, "Projected") for name in ("blip", "idefics", "kosmos-2", "kosmos-2.5", "mllama")),
    *((name, "Projected") for name in ("gemma3n", "glm5_next", "hy_v4_vl", "qwen4_exp")),
    *((name, "Projected") for name in ("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder")),
    ("diffusion_gemma", "Projected"),
    ("chameleon", "Vision"),
    ("apertus1p5", "Vision"),
    ("emu3", "Vision"),
    ("udop", "Vision"),
]
TABLE = Path(__file__).parents[2] / "docs" / "zoo.md"


def test_every_image_text_to_text_model_of_transformers_is_in_the_zoo() -> None:
    assert set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - NO_IMAGES - LOOPED <= set(families.FAMILIES)


def test_the_table_lists_the_zoo() -> None:
    rows = [line.split("|")[1].strip(" `") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    assert rows == sorted(families.FAMILIES)


def test_every_image_text_to_text_model_of_transformers_has_a_grid_or_a_reason_why_not() -> None:
    backbones = {name: BACKBONES.get(name, probe.Backbone) for name in set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - NO_IMAGES}
    assert sorted(name for name, backbone in backbones.items() if not (backbone.no_grid_reason or backbone().has_grid)) == []


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_reads_equal_hugging_face(name: str) -> None:
    found = measure(name)
    assert found.hidden == 0
    assert found.logits == 0
    assert found.vision in (0, None)
    assert found.projected in (0, None)
    assert found.formula < 5e-6
    if not (
        name == "kosmos-2" and Version(transformers.__version__) < Version("5.23")
    ):  # whose own logits were 0.9 apart under eager and sdpa
        assert found.rows < 1e-4


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_the_image_reaches_the_states(name: str) -> None:
    assert measure(name).seen > 1e-3


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_what_a_family_cannot_give_is_listed_here(name: str) -> None:
    # What cannot be read of a block's parts is listed in test_parts.py.
    assert set(measure(name).unreadable) - {"Queries", "Keys", "Values"} == {read for family, read in UNREADABLE if family == name}


@pytest.mark.parametrize(("name", "read"), UNREADABLE)
def test_a_read_that_a_family_cannot_give_is_refused_with_its_reason(name: str, read: str) -> None:
    hf, inputs = families.build(name)
    with pytest.raises(probe.errors.InvalidRead) as refused:
        probe.load(model=hf).run(inputs, getattr(probe, read)())
    reason = measure(name).unreadable[read]
    assert str(refused.value) == f"{read}() cannot be read from this family: {reason}"
    assert f"not available: {reason}" in measure(name).report


@pytest.mark.parametrize("name", sorted(NOT_THE_FEATURES))
def test_projected_tokens_are_what_the_first_block_takes(name: str) -> None:
    hf, inputs = families.build(name)
    trace = probe.load(model=hf).run(inputs, [probe.Projected(), probe.Hidden(0, at="image")])
    assert bool((trace.projected().data == trace.hidden("image", layer=0).data).all())


def test_cross_attention_has_keys_of_its_own() -> None:
    hf, inputs = families.build("mllama")
    model = probe.load(model=hf)
    trace = model.run(inputs, probe.Attention("all", query=-1))
    assert trace.attention(layer=0).shape["key"] == 9
    assert trace.attention(layer=1).shape["key"] == 17  # 4 x 4 patches and a class token of one tile
    with pytest.raises(probe.errors.NotRead, match="attend to different keys"):
        trace.attention()
    with pytest.raises(probe.errors.InvalidRead, match="attends to 17 keys of its own, not to the sequence of 9 tokens"):
        model.run(inputs, probe.Attention([1], query=-1, key="image"))
    assert model.run(inputs, probe.Attention([0], query=-1, key="image")).attention().shape["key"] == 1


def test_residual_streams_lie_side_by_side_until_the_last_layer() -> None:
    hf, inputs = families.build("glm5_next")
    trace = probe.load(model=hf).run(inputs, probe.Hidden("all"))
    assert trace.hidden(layers=range(4)).shape["feature"] == 4 * 32
    assert trace.hidden(layer=4).shape["feature"] == 32
    with pytest.raises(probe.errors.NotRead, match="states of 32 and 128 features"):
        trace.hidden()


def test_an_image_before_the_text_takes_the_first_positions() -> None:
    hf, inputs = families.build("git")
    trace = probe.load(model=hf).run(inputs, [probe.Hidden(0, at="image"), probe.Hidden(0, at=None)])
    assert trace.hidden("image").shape["token"] == 17  # 4 x 4 patches and a class token
    assert len(trace.tokens[0]) == 17 + inputs["input_ids"].shape[1]


def test_every_input_of_a_value_a_token_goes_on_with_the_answer() -> None:
    hf, inputs = families.build("ernie4_5_vl_moe")  # its experts are chosen by `moe_mm_token_type_ids`, which no backbone declares
    prompt = inputs["input_ids"][0].tolist()
    tokens = TokenMap(tuple(prompt), (), (), {})
    given = Encoding(inputs, tokens, "", len(prompt), lambda prompt, answer: (), {"mm_token_type_ids": 0}).with_answer_ids((20, 21))
    extended = {name: torch.cat([value, torch.tensor([[0, 0]])], dim=1) for name, value in inputs.items() if name in given.token_inputs}
    extended["input_ids"][0, -2:] = torch.tensor([20, 21])
    assert set(extended) == {"input_ids", "mm_token_type_ids", "moe_mm_token_type_ids"}
    theirs = hf(**{**inputs, **extended}).logits
    assert bool((probe.load(model=hf).run(given, probe.Logits()).logits().data == theirs).all())
