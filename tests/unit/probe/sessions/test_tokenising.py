"""How often a session tokenises: questions once a list of classes, the gate's words once a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

import probe
from tests import zoo

QUESTIONS = [f"Is there a {name}?" for name in ("cat", "dog", "bird", "sofa")]
GATE = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))


@pytest.fixture
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@contextmanager
def tokenised(model: probe.Probe) -> Iterator[list[str]]:
    """The texts that the model's tokenizer is called with."""
    tokenizer: Any = model.processor.tokenizer  # type: ignore[union-attr]
    kind, texts = type(tokenizer), []

    class Listening(kind):  # type: ignore[misc, valid-type]
        def __call__(self, text: str, *args: Any, **options: Any) -> Any:
            texts.append(text)
            return super().__call__(text, *args, **options)

    tokenizer.__class__ = Listening
    try:
        yield texts
    finally:
        tokenizer.__class__ = kind


def test_questions_about_a_second_image_are_not_tokenised_again(model: probe.Probe, wide_image: Image.Image) -> None:
    other = wide_image.rotate(90, expand=True)
    whole = []  # for each image the prompts that were tokenised with all of its tokens
    for shown in (wide_image, other):
        with tokenised(model) as texts, model.open(shown) as session:
            answers = session.answer(QUESTIONS, [""] * len(QUESTIONS))
        whole.append(sum(text.count("<image>") > 1 for text in texts))
    assert whole == [len(QUESTIONS), 0]
    alone = [model.encode(other, question).with_answer("") for question in QUESTIONS]
    assert answers == alone
    assert answers[0].tokens.layouts != model.encode(wide_image, QUESTIONS[0]).tokens.layouts


def test_a_remembered_question_follows_a_change_of_the_chat_template(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        session.ask(QUESTIONS[:1], max_new_tokens=1)
    processor: Any = model.processor
    processor.chat_template = processor.chat_template.replace("USER", "HUMAN")
    with model.open(wide_image) as session:
        (answer,) = session.ask(QUESTIONS[:1], max_new_tokens=1)
    assert answer.prompt == model.encode(wide_image, QUESTIONS[0]).prompt
    assert "HUMAN" in answer.prompt


def test_the_gates_words_are_tokenised_once_a_session(model: probe.Probe, wide_image: Image.Image) -> None:
    with tokenised(model) as texts, model.open(wide_image) as session:
        session.ask(QUESTIONS[:2], max_new_tokens=0, gate=GATE)
        session.ask(QUESTIONS[2:], max_new_tokens=0, gate=GATE)
    assert [text.rpartition(" ")[2] for text in texts if text.endswith(("yes", "Yes", "no", "No"))] == ["yes", "Yes", "no", "No"]


def test_prompts_that_end_apart_have_first_tokens_of_their_own(model: probe.Probe, wide_image: Image.Image) -> None:
    raw = ["<image> Say", "<image> Say "]
    with model.open(wide_image, chat=False) as session:
        together = [answer.margin for answer in session.ask(raw, max_new_tokens=0, gate=GATE)]
        alone = [session.ask([prompt], max_new_tokens=0, gate=GATE)[0].margin for prompt in raw]
    assert together == pytest.approx(alone, abs=1e-5)
