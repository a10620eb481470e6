"""Edits in generations and sessions: which positions they name, and which prefixes they may share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import probe
from probe.sessions.prefixes import PREFIXES
from tests import zoo

edit = probe.edit

TOLERANCE = 1e-5  # float32, max abs over states of size 1 to 10: the same sums in batches of another shape
LONG, SHORT = "Is there a very large and red cat in it?", "Cat?"


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    built, processor = zoo.llava(layers=4)
    return probe.load(model=built, processor=processor)


@pytest.fixture(scope="module")
def vector() -> torch.Tensor:
    return 3 * torch.randn(48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_negative_position_of_a_generation_counts_from_the_end_of_its_prompt(
    model: probe.Probe, wide_image: Image.Image, vector: torch.Tensor, use_cache: bool
) -> None:
    x = model.encode(wide_image, SHORT)
    length = len(x.tokens)

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        if output.shape[1] >= length:
            output[:, length - 1] += vector
        return output

    handle = model.model.get_submodule(model.modules.layers[1]).register_forward_hook(hook)
    expected = model.generate(x, max_new_tokens=6, use_cache=use_cache).tokens.ids
    handle.remove()
    change = edit.add(probe.Hidden(2, at=-1), vector)
    assert model.generate(x, edits=change, max_new_tokens=6, use_cache=use_cache).tokens.ids == expected
    assert expected != model.generate(x, max_new_tokens=6).tokens.ids


@pytest.mark.parametrize("policy", ["packed", "batched", "none"])
@pytest.mark.parametrize(
    "read", [probe.Hidden(2, at=-1), probe.HeadOutput(1, at=(-1, "answer")), probe.Attention("all", query=-1, key="image")], ids=repr
)
def test_a_session_counts_negative_positions_as_a_generation_does(
    model: probe.Probe, wide_image: Image.Image, read: probe.Read, policy: str
) -> None:
    change = edit.scale(read, -4.0)
    questions = [LONG, SHORT]
    with model.open(wide_image, policy=policy) as session:
        answers = session.ask(questions, edits=change, max_new_tokens=6)
    expected = [model.generate(model.encode(wide_image, question), edits=change, max_new_tokens=6) for question in questions]
    assert [answer.tokens.ids for answer in answers] == [answer.tokens.ids for answer in expected]
    assert [answer.text for answer in answers] != [model.generate(model.encode(wide_image, q), max_new_tokens=6).text for q in questions]


@pytest.mark.parametrize("questions", [(LONG, SHORT), (SHORT, LONG)])
def test_an_edit_that_reaches_the_image_of_one_question_alone_changes_that_one(
    model: probe.Probe, wide_image: Image.Image, questions: tuple[str, str]
) -> None:
    change = edit.zero(probe.Hidden(1, at=-14))
    with model.open(wide_image) as session:
        answers = session.answer(questions, ["yes.", "no."])
        inside = [max(answer.tokens.span("image").positions) >= len(answer.tokens) - 14 for answer in answers]
        assert sorted(inside) == [False, True]
        traces = session.trace(answers, probe.merge([probe.Hidden(-1, at="answer")]), edits=change)
    for answer, trace in zip(answers, traces, strict=True):
        alone = model.run(answer, probe.Hidden(-1, at="answer"), edits=change)
        torch.testing.assert_close(trace.hidden().data, alone.hidden().data, rtol=0, atol=TOLERANCE)
    with model.open(wide_image, policy="packed") as session, pytest.raises(probe.errors.InvalidPolicy, match="in one question than in"):
        session.ask(questions, edits=change)


def test_a_prefix_is_that_of_the_positions_and_not_of_their_name(model: probe.Probe, wide_image: Image.Image) -> None:
    change, read = edit.zero(probe.Hidden(1, at="cells")), probe.Hidden(-1, at="answer")
    with model.open(wide_image) as session:
        (answer,) = session.answer([LONG], ["yes."])
        image = answer.tokens.span("image").positions
        named = [answer.with_spans({"cells": probe.Span(image[start : start + 4])}) for start in (0, 8)]
        for answers in (named[:1], named[1:], named):
            for one, trace in zip(answers, session.trace(answers, [read], edits=change), strict=True):
                alone = model.run(one, read, edits=change).hidden().data
                torch.testing.assert_close(trace.hidden().data, alone, rtol=0, atol=TOLERANCE)


def test_the_end_of_an_answer_can_be_edited_in_a_session(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        (answer,) = session.answer([LONG], ["yes."])
        ended = answer.with_answer_ids((*answer.tokens.ids[answer.prompt_length :], model.model.generation_config.eos_token_id))
        change, read = edit.zero(probe.Hidden(1, at="end")), probe.Hidden(-1, at="end")
        (trace,) = session.trace([ended], [read], edits=change)
    alone = model.run(ended, read, edits=change).hidden().data
    torch.testing.assert_close(trace.hidden().data, alone, rtol=0, atol=TOLERANCE)


def test_a_session_holds_the_prefixes_that_were_used_last(model: probe.Probe, wide_image: Image.Image) -> None:
    read, passes = probe.Hidden(-1, at="answer"), []
    handle = model.model.get_submodule(model.modules.layers[0]).register_forward_pre_hook(
        lambda _, args, kwargs: passes.append((args or [kwargs["hidden_states"]])[0].shape[1]), with_kwargs=True
    )
    changes = [edit.scale(probe.Hidden(1, at="image"), float(factor)) for factor in range(6)]
    with model.open(wide_image) as session:
        (answer,) = session.answer([LONG], ["yes."])
        length = min(answer.tokens.span("question").positions)
        for change in (*changes, changes[-1], changes[-2], changes[0]):
            (trace,) = session.trace([answer], [read], edits=change)
        prefixes = passes.count(length)
        assert len(session._state.prefixes._by_changes) == PREFIXES
    handle.remove()
    assert prefixes == len(changes) + 1  # the first one anew
    alone = model.run(answer, read, edits=changes[0]).hidden().data
    torch.testing.assert_close(trace.hidden().data, alone, rtol=0, atol=TOLERANCE)
