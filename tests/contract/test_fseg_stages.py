"""The stages on a real (tiny, random) LLaVA, against plain Hugging Face."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import probe
from fseg.evidence import Evidence
from fseg.stages.prompts import Prompt
from fseg.stages.qap import Ask
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine
from tests import zoo

ANSWERS = {
    "pottedplant": "yes, it contains a pottedplant. It stands in a corner.",
    "st. bernard": "yes, it contains a st. bernard.",
    "cat": "No.",
}
RESPOND = Respond("D*M_A", {"layers": (1, 3), "beta": 2.0})


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    network, processor = zoo.llava()
    return probe.load(model=network, processor=processor)


@pytest.fixture(scope="module")
def found(model: probe.Probe) -> dict[str, tuple[probe.Answer, Evidence]]:
    """Every class that is present: its answer, and its evidence after all stages but SAM."""
    image = Image.effect_mandelbrot((80, 40), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    with model.open(image) as session:
        told = SimpleNamespace(ask=lambda questions, **_: session.answer(questions, list(ANSWERS.values())))
        present = [one for one in Ask()(told, {name: [name] for name in ANSWERS}) if one.present]
        reads = probe.merge([*RESPOND.reads(), *Refine().reads(), probe.Hidden(layers="all", at="image")])
        traces = session.trace([one.answer for one in present], reads)
    evidence = [
        RESPOND(Evidence(one.name, one.asked_as, True, one.text, one.margin, trace, probe.Grid.whole(4, 4, (40, 80)), flags=one.flags))
        for one, trace in zip(present, traces, strict=True)
    ]
    prompted = [Prompt()(e) for e in Refine(mask="M^_f", alpha=0.0)(evidence)]
    return {one.name: (one.answer, e) for one, e in zip(present, prompted, strict=True)}


@pytest.fixture(scope="module")
def plain(model: probe.Probe, found: dict[str, tuple[probe.Answer, Evidence]]):
    """Hugging Face's own forward over the same tokens."""
    answer = found["pottedplant"][0]
    network = zoo.llava()[0]
    network.set_attn_implementation("eager")
    with torch.no_grad():
        return network(**answer.inputs, output_hidden_states=True, output_attentions=True)


def test_the_distance_is_that_of_hugging_faces_hidden_states_at_the_last_piece_of_the_name(found, plain):
    answer, e = found["pottedplant"]
    ids = answer.inputs["input_ids"][0].tolist()
    pieces = zoo.tokenizer().convert_ids_to_tokens(ids)
    last = max(place for place, piece in enumerate(pieces) if piece == "plant")
    image = [place for place, number in enumerate(ids) if number == zoo.tokenizer().convert_tokens_to_ids("<image>")]
    cosines = [torch.cosine_similarity(plain.hidden_states[k][0, image], plain.hidden_states[k][0, last], dim=-1) for k in (1, 2, 3)]
    torch.testing.assert_close(e.raw_distance, torch.stack(cosines).mean(0).reshape(4, 4), atol=1e-5, rtol=1e-5)


def test_before_the_class_token_is_what_a_generations_hidden_states_hold_at_its_step(found, plain, model):
    """Step k of `generate(output_hidden_states=True)` holds the state of token k - 1, so the position before the last piece."""
    answer, e = found["pottedplant"]
    ids = answer.inputs["input_ids"][0].tolist()
    pieces = zoo.tokenizer().convert_ids_to_tokens(ids)
    last = max(place for place, piece in enumerate(pieces) if piece == "plant")
    image = [place for place, number in enumerate(ids) if number == zoo.tokenizer().convert_tokens_to_ids("<image>")]
    stage = Respond("D", {"layers": (1, 3), "class_token": "before"})
    trace = model.run(answer, stage.reads())
    before = stage(Evidence(e.name, e.asked_as, True, e.answer, None, trace, e.grid)).raw_distance
    cosines = [torch.cosine_similarity(plain.hidden_states[k][0, image], plain.hidden_states[k][0, last - 1], dim=-1) for k in (1, 2, 3)]
    torch.testing.assert_close(before, torch.stack(cosines).mean(0).reshape(4, 4), atol=1e-5, rtol=1e-5)
    assert (before - e.raw_distance).abs().max() > 0.01


def test_the_rows_are_those_of_hugging_faces_attentions(found, plain):
    answer, e = found["pottedplant"]
    description = list(answer.tokens.span("description").positions)
    image = list(answer.tokens.span("image").positions)
    rows = e.scoped(RESPOND.reads()).attention_rows("description", "image")
    expected = torch.stack([layer[0].mean(0)[description][:, image] for layer in plain.attentions])
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_rows_before_are_those_of_the_tokens_that_predict_the_description(found, plain, model):
    answer, e = found["pottedplant"]
    description, image = (list(answer.tokens.span(name).positions) for name in ("description", "image"))
    stage = Respond("M_A", {"layers": (1, 3), "rows": "before", "top_k": 1000, "drop_light_rows": False})
    own = Evidence(e.name, e.asked_as, True, e.answer, None, model.run(answer, stage.reads()), e.grid)
    rows = torch.stack([layer[0].mean(0)[[place - 1 for place in description]][:, image] for layer in plain.attentions])
    torch.testing.assert_close(stage(own).attention, rows.flatten(0, 1).mean(0).reshape(4, 4), atol=1e-5, rtol=1e-5)


def test_the_spans_are_the_words_of_the_answer(found):
    tokens = found["pottedplant"][0].tokens
    assert tokens.text("class") == "pottedplant"
    assert len(tokens.span("class")) == 3
    assert tokens.text("description") == "It stands in a corner."
    assert found["st. bernard"][0].tokens.text("class").rstrip(".") == "st. bernard"


def test_an_absent_class_is_not_traced(found):
    assert list(found) == ["pottedplant", "st. bernard"]


def test_a_class_without_a_description_gets_through_the_whole_chain(found):
    e = found["st. bernard"][1]
    assert e.flags[:1] == ("no-description",)
    assert e.attention_mask.all()
    assert e.refined is not None


def test_maps_have_the_shape_of_the_grid(found):
    for _, e in found.values():
        assert {tuple(value.shape) for value in e.maps().values()} == {(4, 4)}
