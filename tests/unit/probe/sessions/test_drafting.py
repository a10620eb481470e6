"""Drafted tokens are verified: whatever is drafted, the answers are those of greedy decoding, in fewer steps where a draft is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

import probe
from probe import edit
from probe.errors import InvalidRead
from probe.sessions.decoding.drafting import Drafting
from tests import zoo

QUESTIONS = ["Is there a cat?", "And a dog?", "What is on the table, and what lies below it on the floor beside the chair?"]
POLICIES = ("packed", "batched")
LENGTH = 12


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture(params=["plain", "repetition_penalty", "no_repeat_ngram_size"])
def settings(request: pytest.FixtureRequest, model: probe.Probe) -> Iterator[str]:
    """Generation settings whose choice of a token depends on those before, drafted ones included."""
    value = {"plain": None, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}[request.param]
    if value is not None:
        setattr(model.model.generation_config, request.param, value)
    yield request.param
    if value is not None:
        setattr(model.model.generation_config, request.param, None)


def alone(model: probe.Probe, image: Image.Image) -> list[probe.Answer]:
    with model.open(image, policy="none") as session:
        return session.ask(QUESTIONS, max_new_tokens=LENGTH)


@pytest.mark.parametrize("policy", POLICIES)
def test_drafts_change_no_answer(model: probe.Probe, wide_image: Image.Image, policy: str, settings: str) -> None:
    expected = alone(model, wide_image)
    right = [answer.text for answer in expected]
    half = [" ".join(text.split(" ")[:3]) + " dog sofa bird" for text in right]
    for drafts in (right, half, ["yes, it contains a cat."] * 3, [right[0], "", half[2]], [right[1], right[0], ""]):
        with model.open(wide_image, policy=policy) as session:
            answers = session.ask(QUESTIONS, max_new_tokens=LENGTH, drafts=drafts)
        assert [answer.tokens.ids for answer in answers] == [answer.tokens.ids for answer in expected]
        assert session.drafting.tokens == sum(len(answer.tokens) - answer.prompt_length for answer in expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_draft_that_is_right_is_verified_in_one_pass(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    right = [answer.text for answer in alone(model, wide_image)]
    gate = probe.Choice(yes=("yes",), no=("no",), threshold=-1e9)
    with model.open(wide_image, policy=policy) as session:
        session.ask(QUESTIONS[:1], max_new_tokens=LENGTH, drafts=right[:1])
    # The first token, then the draft's others with the one behind them; the words of this model are tokenised as it said them.
    assert session.drafting == Drafting(tokens=LENGTH, steps=2, drafted=LENGTH - 2, accepted=LENGTH - 2)
    with model.open(wide_image, policy=policy) as session:
        session.ask(QUESTIONS[:1], max_new_tokens=LENGTH, drafts=right[:1], gate=gate)
    assert session.drafting == Drafting(tokens=LENGTH, steps=1, drafted=LENGTH - 1, accepted=LENGTH - 1)


def test_an_answer_that_goes_otherwise_costs_a_step_a_token(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        session.ask(QUESTIONS, max_new_tokens=LENGTH)
    assert session.drafting == Drafting(tokens=3 * LENGTH, steps=3 * LENGTH)
    assert session.drafting.saved == 0.0


def test_nothing_is_drafted_under_edits(model: probe.Probe, wide_image: Image.Image) -> None:
    right = [answer.text for answer in alone(model, wide_image)]
    change = edit.scale(probe.Hidden(2, at="answer"), 1.0)
    with model.open(wide_image) as session:
        answers = session.ask(QUESTIONS, max_new_tokens=LENGTH, drafts=right, edits=change)
    assert session.drafting.drafted == 0
    assert [answer.text for answer in answers] == right


def test_a_draft_is_given_for_each_question(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session, pytest.raises(InvalidRead, match="drafts= has 1 entries for 3 questions"):
        session.ask(QUESTIONS, drafts=["yes"])
