"""Every read of a model with an image equals plain Hugging Face's tensor. Norm: the largest absolute difference.

Float32 tolerances. Hidden states, vision states, projected tokens and logits come from the same kernel on the same inputs, so they are
equal to the bit: 0. Attention rows are our float32 softmax against eager's: two orders of summation over a few dozen keys, 1e-6. In
bfloat16 eager rounds its weights to 8 bits of mantissa, 2**-9 of a weight of at most 1: 4e-3.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import probe
from tests import zoo

ANSWER = "yes, it contains a pottedplant. It stands at the left."
VARIANTS = {
    "llava": (zoo.llava, {}),
    "llava-stretched": (zoo.llava, {"resize": "stretch", "tiles": False}),
    "llava_next-tiles": (zoo.llava_next, {}),
    "llava_next-base": (zoo.llava_next, {"resize": "stretch", "tiles": False}),
}


class Case:
    """A model, an answered image, our trace of everything, and Hugging Face's own outputs."""

    def __init__(self, name: str, image: Image.Image) -> None:
        build, preparation = VARIANTS[name]
        self.hf, processor = build()
        self.model = probe.load(model=self.hf, processor=processor, **preparation)
        answered = self.model.encode(image, "Is there a pottedplant?").with_answer(ANSWER)
        self.answered = answered.with_spans({"word": answered.tokens.word("pottedplant")})
        self.trace = self.model.run(
            self.answered,
            [
                probe.Hidden(layers="all", at=None),
                probe.Hidden(layers="all", at=("image", "word")),
                probe.Attention(layers="all", query="answer", key=None),
                probe.Attention(layers="all", query="word", key="image", heads="mean"),
                probe.Vision(layers="all"),
                probe.Projected(),
                probe.Logits(at="answer"),
            ],
        )
        inputs = self.model.backbone.forward_inputs(self.hf, self.answered.inputs)
        with torch.no_grad():
            self.plain = self.hf(**inputs, output_hidden_states=True)
            pixels = self.answered.inputs["pixel_values"].flatten(0, -4)
            self.tower = self.hf.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            self.hf.set_attn_implementation("eager")
            self.eager = self.hf(**inputs, output_attentions=True).attentions
            self.hf.set_attn_implementation("sdpa")

    def at(self, name: str) -> list[int]:
        return list(self.answered.tokens.span(name).positions)


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, wide_image: Image.Image) -> Case:
    return Case(request.param, wide_image)


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def test_hidden_states_of_every_layer_are_equal(case: Case) -> None:
    for layer, states in enumerate(case.plain.hidden_states):
        assert largest(case.trace.hidden(layer=layer).data, states) == 0
        assert largest(case.trace.hidden(("image", "word"), layer=layer).data, states[:, case.at("image") + case.at("word")]) == 0


def test_the_last_hidden_state_is_after_the_final_norm(case: Case) -> None:
    assert largest(case.hf.lm_head(case.trace.hidden(layer=-1).data), case.plain.logits) == 0


def test_attention_rows_are_those_of_eager_attention(case: Case) -> None:
    for layer, rows in enumerate(case.eager):
        assert largest(case.trace.attention(layer=layer, query="answer").data, rows[:, :, case.at("answer")]) < 1e-6
        mean = rows.mean(1)[:, case.at("word")][..., case.at("image")]
        assert largest(case.trace.attention(layer=layer, query="word").data, mean) < 1e-6


def test_rows_over_all_keys_sum_to_one(case: Case) -> None:
    total = case.trace.attention(query="answer").data.sum(-1)
    assert largest(total, torch.ones_like(total)) < 1e-6


def test_vision_states_are_the_towers_without_the_class_token(case: Case) -> None:
    for layer, states in enumerate(case.tower):
        assert largest(case.trace.vision(layer=layer).data, states[:, 1:]) == 0


def test_projected_tokens_are_what_the_projector_gave(case: Case) -> None:
    pixels = case.answered.inputs["pixel_values"]
    if "image_sizes" in case.answered.inputs:
        theirs: Any = case.hf.get_image_features(pixels, case.answered.inputs["image_sizes"]).pooler_output[0]
    else:
        theirs = case.hf.model.multi_modal_projector(case.tower[-2][:, 1:])[0]
    assert largest(case.trace.projected().data[0], theirs) == 0


def test_logits_are_equal(case: Case) -> None:
    assert largest(case.trace.logits().data, case.plain.logits[:, case.at("answer")]) == 0


def test_rows_times_values_were_checked_against_every_kernel_call(case: Case) -> None:
    fresh = probe.load(
        model=case.hf,
        processor=case.model.processor,
        resize=case.model.encoder.preparation.resize,
        tiles=case.model.encoder.preparation.tiles,
    )
    reads = [probe.Attention(layers="all", query="answer", key="image")]
    first, second = fresh.run(case.answered, reads), fresh.run(case.answered, reads)
    assert sorted(first.row_differences) == [0, 1, 2, 3]
    assert max(first.row_differences.values()) < 1e-5
    assert second.row_differences == {}


def test_teacher_forcing_gives_the_states_of_step_by_step_generation(case: Case, wide_image: Image.Image) -> None:
    encoding = case.model.encode(wide_image, "Is there a pottedplant?")
    inputs = case.model.backbone.forward_inputs(case.hf, encoding.inputs)
    steps = case.hf.generate(
        **inputs,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    answer = case.model.generate(encoding, max_new_tokens=6, min_new_tokens=6)
    assert answer.inputs["input_ids"][0, -6:].tolist() == steps.sequences[0, -6:].tolist()
    trace = case.model.run(answer, probe.Hidden(layers=[2], at=[-6, -5, -4, -3, -2]))
    stepped = torch.cat([steps.hidden_states[k][2] for k in range(1, 6)], dim=1)  # step k holds the state of token k - 1
    assert largest(trace.hidden().data[0], stepped) < 5e-6  # a cached step sums in another order than one long pass


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rows_stay_within_eagers_own_rounding(dtype: str, wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor, dtype=dtype)
    answered = model.encode(wide_image, "Is there a cat?").with_answer(ANSWER)
    trace = model.run(answered, [probe.Attention(layers=[0], query="answer"), probe.Hidden(layers=[0], at="answer")])
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        eager = hf(**answered.inputs, output_attentions=True).attentions[0]
    assert trace.hidden().data.dtype == getattr(torch, dtype)
    assert largest(trace.attention().data[0], eager[:, :, list(answered.tokens.span("answer").positions)].float()) < 4e-3


def test_a_plain_encoding_needs_no_processor(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    encoding = processor(images=wide_image, text="USER: <image>\nIs there a cat? ASSISTANT:", return_tensors="pt")
    bare = probe.load(model=hf)
    reads = [
        probe.Hidden(layers=[3], at=None),
        probe.Attention(layers="all", query=[-1, -2], key=None),
        probe.Hidden(layers=[3], at="image"),
    ]
    trace = bare.run(encoding, reads)
    with torch.no_grad():
        plain = hf(**encoding, output_hidden_states=True).hidden_states[3]
        hf.set_attn_implementation("eager")
        rows = hf(**encoding, output_attentions=True).attentions[1]
    assert largest(trace.hidden(layer=3).data, plain) == 0
    assert largest(trace.attention(layer=1).data, rows[:, :, [-1, -2]]) < 1e-6
    assert trace.hidden("image").data.shape == (1, 1, 16, 48)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_each_row_what_it_gives_alone(side: str, wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    texts = ["USER: <image>\nIs there a cat? ASSISTANT:", "USER: <image>\nIs there a cat or a cow? ASSISTANT:"]
    bare = probe.load(model=hf)
    reads = [probe.Hidden(layers=[2], at=[-1, 0]), probe.Hidden(layers=[2], at=None), probe.Attention(layers=[1], query=[-1], key="image")]
    processor.tokenizer.padding_side = side
    together = bare.run(processor(images=[wide_image] * 2, text=texts, return_tensors="pt", padding=True), reads)
    processor.tokenizer.padding_side = "left"
    for row, text in enumerate(texts):
        alone = bare.run(processor(images=wide_image, text=text, return_tensors="pt"), reads)
        ours = together.hidden([-1, 0]).data[:, row]
        assert largest(ours, alone.hidden([-1, 0]).data[:, 0]) < 2e-5  # padding changes the order of sums
        assert largest(together.hidden()[row].data, alone.hidden().data) < 2e-5  # ragged: a list, one a row
        assert largest(together.attention().data[:, row], alone.attention().data[:, 0]) < 1e-6
