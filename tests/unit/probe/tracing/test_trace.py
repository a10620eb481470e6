"""Traces: what was read is there by every name of its positions; and encodings, answers and traces can be handed on."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.tokens.spans import Span
from probe.tracing.sites import StateAddress
from tests import zoo
from tests.families.daily import daily


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.fixture(scope="module")
def answer(model: probe.Probe) -> probe.Answer:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    answer = model.encode(Image.fromarray(pixels), "Is there a cat?").with_answer("yes, a pottedplant.")
    return answer.with_spans({"word": answer.tokens.word("pottedplant")})


@pytest.fixture(scope="module")
def full(model: probe.Probe, answer: probe.Answer) -> probe.Trace:
    """States, logits and attention of every position."""
    return model.run(answer, [probe.Hidden("all"), probe.Attention("all", query=None), probe.Logits()])


def test_a_read_of_every_position_answers_for_each_place(full: probe.Trace, answer: probe.Answer) -> None:
    word = list(answer.tokens.span("word").positions)
    assert full.hidden("word").coords == {"layer": (0, 1, 2, 3, 4), "token": tuple(word)}
    assert torch.equal(full.hidden("word").data, full.hidden().data[:, :, word])
    assert torch.equal(full.hidden(("word", -1), layer=2).data, full.hidden(layer=2).data[:, [*word, len(answer.tokens) - 1]])
    assert torch.equal(full.logits("word").data, full.logits().data[:, word])
    assert full.hidden("image").grid().shape["row"] == 4


def test_projected_beside_hidden_states_takes_no_layer_from_them(model: probe.Probe, answer: probe.Answer, full: probe.Trace) -> None:
    trace = model.run(answer, [probe.Hidden("all"), probe.Projected()])
    assert trace.hidden("image").coords["layer"] == (0, 1, 2, 3, 4)
    assert torch.equal(trace.hidden("image").data, full.hidden("image").data)
    assert model.run(answer, probe.Projected()).hidden("image").coords["layer"] == (0,)


def test_places_of_several_reads_answer_together(model: probe.Probe, answer: probe.Answer, full: probe.Trace) -> None:
    trace = model.run(answer, [probe.Hidden([1, 3], "word"), probe.Hidden([3], "question"), probe.Hidden([4], "answer")])
    first, asked = answer.tokens.span("word").positions[0], answer.tokens.span("question").positions[1]
    assert trace.hidden((first, asked)).coords["layer"] == (3,)
    assert torch.equal(trace.hidden((first, asked)).data, full.hidden((first, asked), layers=[3]).data)
    assert trace.hidden("word").coords["layer"] == (1, 3)  # asked for by name: at its own layers, though layer 4 is there as well
    assert torch.equal(trace.hidden("word", layer=4).data, full.hidden("word", layer=4).data)
    with pytest.raises(probe.errors.NotRead, match=r"Hidden states at 'image' were not read\. Read at: 'word', 'question', 'answer'"):
        trace.hidden("image")


def test_attention_rows_and_columns_may_be_a_part_of_those_read(full: probe.Trace, answer: probe.Answer) -> None:
    word, image = (list(answer.tokens.span(name).positions) for name in ("word", "image"))
    part = full.attention(query="word", key="image")
    assert part.coords == {"layer": (0, 1, 2, 3), "query": tuple(word), "key": tuple(image)}
    assert torch.equal(part.data, full.attention().data[..., word, :][..., image])
    assert torch.equal(full.attention(layer=-1, query=-1).data, full.attention(layer=3).data[..., -1:, :])


def test_attention_that_was_not_read_is_refused(model: probe.Probe, answer: probe.Answer) -> None:
    trace = model.run(answer, [probe.Attention([1], query="word", key="image"), probe.Attention([2], query="word", key="question")])
    with pytest.raises(probe.errors.NotRead, match=r"No attention was read from 'answer' to all\. Attention reads: 'word' to 'image'"):
        trace.attention(query="answer")
    with pytest.raises(probe.errors.NotRead, match="Several attention reads fit"):
        trace.attention(query=answer.tokens.span("word").positions[0])


def test_the_layers_of_attention_say_which_read_is_meant(model: probe.Probe, answer: probe.Answer) -> None:
    trace = model.run(answer, [probe.Attention([2], query=-1), probe.Attention([3], query=-2)])
    assert torch.equal(trace.attention(layers=[2]).data[0], trace.attention(layer=2).data)
    assert torch.equal(trace.attention(layers=iter([-1])).data[0], trace.attention(layer=3).data)
    with pytest.raises(probe.errors.NotRead, match="Several attention reads fit"):
        trace.attention(layers=[2, 3])


def test_positions_of_reads_without_a_common_layer_are_named_with_their_layers(model: probe.Probe, answer: probe.Answer) -> None:
    trace = model.run(answer, [probe.Hidden([3], at="image"), probe.Hidden([4], at="question")])
    for asked in ({}, {"layer": 3}):
        with pytest.raises(
            probe.errors.NotRead,
            match=r"These positions were read at no common layer: 'image' at 3; 'question' at 4\. Name positions of one read\.",
        ):
            trace.hidden(("image", "question"), **asked)


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (lambda trace: trace.hidden(), "hidden states"),
        (lambda trace: trace.hidden("image"), "hidden states"),
        (lambda trace: trace.logits(), "logits"),
        (lambda trace: trace.logits(-1), "logits"),
        (lambda trace: trace.vision(), "vision states"),
        (lambda trace: trace.vision(1), "vision states"),
        (lambda trace: trace.attention(), "attention rows"),
        (lambda trace: trace.attention(layer=1, query=-1), "attention rows"),
    ],
)
def test_what_a_run_did_not_read_at_all_is_said(model: probe.Probe, answer: probe.Answer, ask: Any, kind: str) -> None:
    with pytest.raises(probe.errors.NotRead, match=rf"^No {kind} were read\. Name them in the reads of the run\.$"):
        ask(model.run(answer, probe.Logits(-1) if kind == "hidden states" else probe.Hidden(1, at="question")))


def test_numpy_and_torch_integers_name_layers_and_positions(model: probe.Probe, answer: probe.Answer, full: probe.Trace) -> None:
    reads = [probe.Hidden(np.arange(1, 3), at=torch.tensor([-1, 2])), probe.Attention(np.int64(1), query=np.array([3]), key=np.int32(0))]
    assert reads == [probe.Hidden((1, 2), at=(-1, 2)), probe.Attention((1,), query=(3,), key=(0,))]
    trace = model.run(answer, reads)
    assert torch.equal(trace.hidden(layer=np.int64(2)).data, full.hidden([-1, 2], layer=2).data)
    assert trace.hidden(np.array([2]), layers=np.array([2, 1])).coords == {"layer": (2, 1), "token": (2,)}
    assert trace.attention(layer=torch.tensor(1)).shape == {"batch": 1, "head": 4, "query": 1, "key": 1}
    assert answer.tokens.word("pottedplant", index=np.int64(0)) == answer.tokens.word("pottedplant")
    assert answer.tokens.resolve(np.int64(-1)) == (len(answer.tokens) - 1,)
    assert Span(np.array([1, 2])) == Span((1, 2))  # type: ignore[arg-type]
    for wrong in (np.array([0.5]), np.array([True]), torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(probe.errors.InvalidRead, match=r"Hidden\(layers="):
            probe.Hidden(wrong)  # type: ignore[arg-type]
        with pytest.raises(probe.errors.InvalidRead, match="a position is"):
            probe.Hidden(1, at=wrong)  # type: ignore[arg-type]


def test_a_layer_that_is_no_number_is_refused_where_it_is_asked_for(full: probe.Trace) -> None:
    for wrong in ({"layer": 1.5}, {"layer": "last"}, {"layers": [0.5]}, {"layers": []}):
        with pytest.raises(probe.errors.NotRead, match="layer= takes a number"):
            full.hidden("word", **wrong)


def test_an_image_by_itself_is_image_0(model: probe.Probe, answer: probe.Answer) -> None:
    assert answer.tokens.span("image 0").positions == answer.tokens.span("image").positions
    trace = model.run(dict(answer.inputs), probe.Hidden(1, at="image 0"))
    assert trace.hidden("image 0").shape["token"] == 16


def test_a_name_that_the_encoding_gives_cannot_be_given_again(answer: probe.Answer) -> None:
    word = answer.tokens.span("word")
    for name in ("image", "image 0", "image 7", "prompt", "question", "answer", "end"):
        with pytest.raises(probe.errors.InvalidRead, match=rf"The span '{name}' is named by encode\(\) and with_answer\(\)"):
            answer.with_spans({name: word})
    assert answer.with_spans({"word": Span((3,))}).with_spans({"word": word}).tokens.span("word") == word


def test_what_is_shown_of_them_is_short(model: probe.Probe, answer: probe.Answer, full: probe.Trace) -> None:
    text = f"{len(answer.tokens)} tokens: prompt {answer.prompt_length}, image 16, image 0 16, question 5, answer 7, word 3"
    assert repr(answer) == f"Answer('yes, a pottedplant.'; {text})"
    assert repr(answer.tokens) == f"TokenMap(llava, {text})"
    assert repr(full) == (
        "Trace(hidden states of layers 0, 1, 2, 3, 4 at every position; attention of blocks 0, 1, 2, 3 from all to all (heads=all); "
        f"logits at every position; 1 x {len(answer.tokens)} tokens)"
    )
    long = answer.with_answer("word " * 5000)
    shown = [long, long.tokens, model.run(long, [probe.Hidden(1, at=list(range(900))), probe.Projected()])]
    assert max(len(repr(one)) for one in shown) < 400


Parts = tuple[probe.Encoding, probe.Answer, probe.Trace]


def changed(parts: Parts) -> tuple[str, str, tuple[int, ...], Any, Parts]:
    """What another process makes of them, and they themselves."""
    encoding, answer, trace = parts
    again = encoding.with_answer("no, a cat.")
    word = answer.tokens.text(answer.tokens.word("pottedplant"))
    return again.text, word, again.tokens.ids, trace.hidden("word", layer=2).numpy(), parts


def sent(parts: Parts) -> tuple[str, str, tuple[int, ...], Any, Parts]:
    """What a process that is started for it makes of them."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(changed, [parts])


COPIES = {
    "pickled": lambda parts: changed(pickle.loads(pickle.dumps(parts))),
    "copied": lambda parts: changed(copy.deepcopy(parts)),
    "sent": sent,
}


@pytest.mark.parametrize("way", daily(COPIES, ("pickled", "copied")))
def test_they_can_be_copied_pickled_and_sent_to_another_process(
    model: probe.Probe, answer: probe.Answer, full: probe.Trace, way: str
) -> None:
    encoding = model.encode(Image.new("RGB", (40, 40)), "Is there a cat?")
    parts = encoding, answer, full
    expected = changed(parts)
    assert expected[:2] == ("no, a cat.", "pottedplant")
    found = COPIES[way](parts)
    assert found[:3] == expected[:3]
    assert (found[3] == expected[3]).all()
    returned = found[4][2]
    assert returned is not full
    assert returned == full
    assert returned.attention(query="word", key="image") == full.attention(query="word", key="image")
    assert pickle.loads(pickle.dumps(answer.tokens)) == answer.tokens
    assert answer.tokens != encoding.tokens


def test_traces_are_equal_where_what_was_read_is(model: probe.Probe, answer: probe.Answer, full: probe.Trace) -> None:
    reads = [probe.Hidden([1, 2], at="word"), probe.Attention([1], query=-1), probe.Vision(-1)]
    trace = model.run(answer, reads)
    assert trace == model.run(answer, reads)
    assert trace != full
    changed = copy.deepcopy(trace)
    changed.captured.states[StateAddress("Hidden", 1), "word"][0][0, 0] += 1
    assert changed != trace
    assert trace != "a trace"


@pytest.fixture(scope="module")
def ragged(model: probe.Probe) -> probe.Trace:
    """Two rows of 4 and 3 tokens."""
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    return probe.load(model=model.model).run(inputs, [probe.Hidden([1, 2]), probe.Attention([1], query=-1), probe.Logits()])


@pytest.mark.parametrize(
    ("read", "axis"),
    [(lambda t: t.hidden(), "token"), (lambda t: t.attention(layer=1), "key"), (lambda t: t.logits(), "token")],
    ids=["hidden", "attention", "logits"],
)
def test_each_row_of_a_ragged_batch_has_its_own_activation(ragged: probe.Trace, read: Any, axis: str) -> None:
    activation = read(ragged)
    assert isinstance(activation, probe.Activation)
    assert [row.shape["batch"] for row in activation.rows()] == [1, 1]
    assert [row.shape[axis] for row in activation.rows()] == [4, 3]
    assert [row.coords[axis] for row in activation.rows()] == [(0, 1, 2, 3), (0, 1, 2)]
    with pytest.raises(probe.errors.NotRead, match=rf"{axis}=4, 3\) differ in length.*Take each row's own from \.rows\(\)"):
        _ = activation.data


def test_rows_of_equal_length_are_taken_from_a_batch_alike(ragged: probe.Trace) -> None:
    last = ragged.hidden(-1)
    assert last.shape == {"layer": 2, "batch": 2, "token": 1, "feature": 48}
    assert [row.coords["batch"] for row in last.rows()] == [(0,), (1,)]
    assert torch.equal(last.rows()[1].data, last.data[:, 1:])
    assert torch.equal(last.rows()[1].data, ragged.hidden().rows()[1].data[:, :, -1:])
