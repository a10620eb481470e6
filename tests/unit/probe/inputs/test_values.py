"""What a user hands on can be pickled, copied, compared and sent to another process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.tokens.equality import equal_values
from tests import zoo

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8))
TEXT = "yes, it contains a cat."


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


def answered(model: probe.Probe) -> probe.Answer:
    answer = model.encode(IMAGE, "Is there a cat?").with_answer(TEXT)
    return answer.with_spans({"animal": answer.tokens.word("cat")})


VALUES: dict[str, Callable[[probe.Probe], object]] = {
    "Span": lambda model: probe.Span(range(3), "first"),
    "Grid": lambda model: probe.Grid.at(((0, 5), (6, 10)), ((0, 20),), (0, 1), (10, 20)),
    "ImageLayout": lambda model: model.encode(IMAGE, "What?").tokens.layouts[0],
    "TokenMap": lambda model: answered(model).tokens,
    "Encoding": lambda model: model.encode(IMAGE, "Is there a cat?"),
    "Answer": answered,
    "PreparedImages": lambda model: model.prepare(IMAGE),
    "PreparedImages, resized directly": lambda model: probe.load(model=model.model, processor=model.processor, resize="stretch").prepare(
        IMAGE
    ),
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_pickle_and_a_copy_are_equal_to_the_value(make: Callable[[probe.Probe], object], model: probe.Probe) -> None:
    value = make(model)
    for other in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value), make(model)):
        assert type(other) is type(value)
        assert other == value
    assert value != "something else"


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, prompt="another"),
        lambda one: replace(one, margin=0.5),
        lambda one: replace(one, inputs={**one.inputs, "pixel_values": one.inputs["pixel_values"] + 1}),
        lambda one: replace(one, inputs={**one.inputs, "pixel_values": one.inputs["pixel_values"].double()}),
        lambda one: replace(one, inputs={**one.inputs, "more": torch.zeros(1)}),
        lambda one: one.with_answer("No."),
        lambda one: one.with_spans({"animal": probe.Span((1,))}),
        lambda one: probe.Encoding(one.inputs, one.tokens, one.prompt, one.prompt_length, lambda prompt, text: (), {}),
    ],
    ids=["prompt", "margin", "values", "dtype", "input", "answer", "span", "class"],
)
def test_answers_that_differ_anywhere_are_not_equal(change: Callable[[probe.Answer], probe.Encoding], model: probe.Probe) -> None:
    answer = answered(model)
    assert change(answer) != answer


def test_equal_encodings_have_equal_hashes(model: probe.Probe) -> None:
    assert len({model.encode(IMAGE, "Is there a cat?") for _ in range(2)}) == 1
    assert len({model.prepare(IMAGE) for _ in range(2)}) == 1


def test_nan_equals_nan_and_nothing_else() -> None:
    values = torch.tensor([torch.nan, 1.0])
    assert equal_values({"a": [values]}, {"a": [values.clone()]})
    for other in (
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, torch.nan]),
        values.double(),
        values[None],
        [torch.nan, 1.0],
    ):
        assert not equal_values(values, other)


def test_a_copy_does_not_copy_the_vocabulary(model: probe.Probe) -> None:
    tokens = answered(model).tokens
    assert copy.deepcopy(tokens).decode is tokens.decode


def test_names_of_your_own_leave_an_answer_an_answer(model: probe.Probe) -> None:
    named = answered(model)
    assert type(named) is probe.Answer
    assert (named.text, named.tokens.text("animal")) == (TEXT, "cat")


@pytest.mark.slow
def test_an_answer_comes_back_from_another_process(model: probe.Probe) -> None:
    answer = answered(model)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        text, back = pool.apply(text_and_value, (answer,))
    assert text == "cat"
    assert back == answer


def text_and_value(answer: probe.Answer) -> tuple[str, probe.Answer]:
    return answer.tokens.text("animal"), answer
