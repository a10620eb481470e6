"""Questions about several images in shared passes, on a tiny LLaVA: how many passes there are, what is told apart, what runs alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import probe
from probe.errors import InvalidRead, NotFinite, SessionClosed
from probe.sessions.shared.asking import EXPECTED_ANSWER_TOKENS
from tests import zoo

QUESTIONS = ["Is there a cat?", "What is to the left of the large red dog?", "Why?"]
KEYS = probe.Keys([1, 3], at=("image", "answer"))
READS = (probe.Hidden("all", at=("image", "answer")), probe.Attention("all", query="answer", key="image"), probe.Logits(at="answer"), KEYS)
GATE = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), threshold=-10.0)
TOLERANCE = 1e-5  # float32, max abs: products of other shapes


def opened() -> probe.Probe:
    hf, processor = zoo.llava()
    hf.generation_config.eos_token_id = None  # every answer has the same length
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture
def model() -> probe.Probe:
    return opened()


@pytest.fixture
def images(model: probe.Probe, wide_image: Image.Image) -> list[probe.PreparedImages]:
    return [model.prepare(wide_image.rotate(72 * number)) for number in range(4)]


@pytest.fixture
def rows(model: probe.Probe) -> Iterator[list[int]]:
    """How many rows each pass of the decoder had."""
    seen: list[int] = []
    decoder = model.model.get_submodule(model.modules.layers[0].rsplit(".", 2)[0])
    hook = decoder.register_forward_pre_hook(lambda _, __, given: seen.append(len(given["inputs_embeds"])), with_kwargs=True)
    yield seen
    hook.remove()


def asked(sessions: list[probe.Session], **options: Any) -> list[probe.Answer]:
    pairs = [(session, question) for question in QUESTIONS for session in sessions]
    return probe.ask_together(pairs, max_new_tokens=4, **options)


def alone(model: probe.Probe, images: list[probe.PreparedImages], **options: Any) -> list[list[probe.Answer]]:
    """For each image its answers."""
    found = []
    for image in images:
        with model.open(image) as session:
            found.append(session.ask(QUESTIONS, max_new_tokens=4, **options))
    return found


def by_image(values: list[Any], count: int) -> list[list[Any]]:
    return [values[number::count] for number in range(count)]


def ids(answers: list[list[probe.Answer]]) -> list[list[tuple[int, ...]]]:
    return [[answer.tokens.ids for answer in own] for own in answers]


def assert_as_runs(model: probe.Probe, traces: list[probe.Trace], answers: list[probe.Answer]) -> None:
    for trace, answer in zip(traces, answers, strict=True):
        theirs = model.run(answer, READS)
        pairs = [(trace.hidden(at), theirs.hidden(at)) for at in ("image", "answer")]
        pairs += [(trace.attention(), theirs.attention()), (trace.logits(), theirs.logits()), (trace[KEYS], theirs[KEYS])]
        for one, other in pairs:
            torch.testing.assert_close(one.data, other.data, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("policy", "whole"), [("packed", 3), ("batched", 9)])
def test_each_step_of_all_images_is_one_pass(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int], policy: str, whole: int
) -> None:
    sessions = [model.open(image, policy=policy) for image in images[:3]]
    asked(sessions, gate=GATE)  # reads the prefixes, and compares a first pass
    rows.clear()
    found = asked(sessions, gate=GATE)
    assert rows == [whole] * 5  # the gate and four tokens
    rows.clear()
    traces = probe.trace_together([(sessions[number % 3], answer) for number, answer in enumerate(found)], READS)
    assert rows[-1:] == [whole]
    assert rows[:-1] == [1] * 3  # each prefix once more, for its states
    expected = alone(model, images[:3], gate=GATE)
    assert ids(by_image(found, 3)) == ids(expected)
    assert len({answer.tokens.ids for answer in found}) > 3
    for ours, theirs in zip(by_image(found, 3), expected, strict=True):
        assert [answer.margin for answer in ours] == pytest.approx([answer.margin for answer in theirs], abs=TOLERANCE)
    assert_as_runs(model, traces, found)


def test_prefixes_that_ran_together_are_taken_by_the_sessions_that_are_asked_together(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]
) -> None:
    for _ in range(2):  # the first time each kind of pass is compared
        rows.clear()
        batch = probe.ImageBatch(images[:3])
        sessions = [model.open(image, keep=READS, together=batch) for image in images[:3]]
        found = asked(sessions)
        probe.trace_together([(sessions[number % 3], answer) for number, answer in enumerate(found)], READS)
        assert batch._begun == []
    assert rows == [3] * (1 + 4 + 1)  # the prefixes, four tokens, the traces
    assert ids(by_image(found, 3)) == ids(alone(model, images[:3]))


@pytest.mark.parametrize("other", [None, "Look at this picture, please: <image>\n{question} B:"], ids=["equal lengths", "padded"])
def test_images_leave_the_batch_as_their_answers_end(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int], other: str | None
) -> None:
    sessions = [model.open(image, template=template) for image, template in zip(images, (other, None, other), strict=False)]
    asked(sessions)
    pairs = [(sessions[0], QUESTIONS[0]), *((sessions[1], question) for question in QUESTIONS), (sessions[2], QUESTIONS[1])]
    plain = probe.ask_together(pairs, max_new_tokens=8)
    first = [answer.tokens.ids[answer.prompt_length] for answer in plain]
    model.model.generation_config.eos_token_id = [first[0], first[2]]  # the first image has done at once, and of the second a part
    rows.clear()
    found = probe.ask_together(pairs, max_new_tokens=8)
    assert rows[0] == 3
    assert rows[-1] < 3
    for (session, question), answer in zip(pairs, found, strict=True):
        assert session.ask([question], max_new_tokens=8)[0].tokens.ids == answer.tokens.ids
    assert len({len(answer.tokens) - answer.prompt_length for answer in found}) > 1
    assert len({session._state.prefixes._length for session in sessions}) == (1 if other is None else 2)


def test_drafts_are_verified_and_counted_as_in_each_session_alone(model: probe.Probe, images: list[probe.PreparedImages]) -> None:
    expected = alone(model, images[:2])
    drafts = [answer.text if number else "no" for number, answer in enumerate(expected[0])]
    lone = [model.open(image) for image in images[:2]]
    for session in lone:
        session.ask(QUESTIONS, max_new_tokens=4, drafts=drafts)
    sessions = [model.open(image) for image in images[:2]]
    found = asked(sessions, drafts=[draft for draft in drafts for _ in sessions])
    assert ids(by_image(found, 2)) == ids(expected)
    assert [session.drafting for session in sessions] == [session.drafting for session in lone]
    assert sessions[0].drafting.accepted > 0


@pytest.mark.parametrize("policy", ["packed", "batched"])
@pytest.mark.parametrize(("words", "joins"), [("Look at this picture, please", True), ("Look here " * 20, False)], ids=["similar", "twice"])
def test_prefixes_of_similar_lengths_share_passes(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int], policy: str, words: str, joins: bool
) -> None:
    templates = (None, words + ": <image>\n{question} B:", None, "A: <image>\n{question} B:")
    sessions = [model.open(image, template=template, policy=policy) for image, template in zip(images, templates, strict=True)]
    asked(sessions)
    rows.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = asked(sessions)
        traces = probe.trace_together(list(zip(sessions * 3, found, strict=True)), READS)
    each = 3 if policy == "batched" else 1
    whole, apart = 4 * each, 3 * each
    assert len({session._state.prefixes._length for session in sessions}) == 3
    # Four tokens; each prefix once more, for its states; the traces.
    assert rows == ([whole] * 4 + [1] * 4 + [whole] if joins else [apart] * 4 + [each] * 4 + [1] * 3 + [apart, 1, each])
    for session, answers in zip(sessions, by_image(found, 4), strict=True):
        assert ids([answers]) == ids([session.ask(QUESTIONS, max_new_tokens=4)])
    assert_as_runs(model, traces, found)


def test_images_share_each_of_the_passes_that_one_needs(model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]) -> None:
    sessions = [model.open(image) for image in images]
    expected = asked(sessions)
    own = max(answer.prompt_length for answer in expected) - sessions[0]._state.prefixes._length
    model.runtime.batcher("packed", "ask").limit = 2 * (own + EXPECTED_ANSWER_TOKENS)  # two of an image's three questions
    pairs = [*((session, question) for session in sessions[:2] for question in QUESTIONS), (sessions[2], QUESTIONS[0])]
    rows.clear()
    found = probe.ask_together(pairs, max_new_tokens=4)
    assert rows == [3] * 4 + [2] * 4
    assert ids([found]) == [[*(one for own in ids(by_image(expected, 4)[:2]) for one in own), expected[2].tokens.ids]]


def test_memory_that_runs_out_halves_the_pass(model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]) -> None:
    sessions = [model.open(image) for image in images]
    expected = ids([asked(sessions)])
    decoder = model.model.get_submodule(model.modules.layers[0].rsplit(".", 2)[0])

    def short(_: Any, __: Any, given: Any) -> None:
        if len(given["inputs_embeds"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    decoder.register_forward_pre_hook(short, with_kwargs=True)
    rows.clear()
    assert ids([asked(sessions)]) == expected
    assert rows == [1] * 4 + [4] + [2] * 8  # a hook changes a model: each prefix runs again
    rows.clear()
    asked(sessions)
    assert rows == [2] * 8


def test_a_model_that_other_rows_change_is_found_out(model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]) -> None:
    """A block that adds to every token how many other rows there are."""
    expected = alone(model, images[:2])
    block = model.model.get_submodule(model.modules.layers[1])
    block.register_forward_pre_hook(lambda _, given: (given[0] + float(len(given[0]) - 1), *given[1:]))
    sessions = [model.open(image) for image in images[:2]]
    with pytest.warns(UserWarning, match="Questions about several images run image by image: other rows of a batch change"):
        found = asked(sessions)
    assert ids(by_image(found, 2)) == ids(expected)
    rows.clear()
    with pytest.warns(UserWarning, match="image by image"):
        asked(sessions)
    assert set(rows) == {1}


def test_prefixes_of_equal_length_share_passes_where_padding_changes_the_model(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]
) -> None:
    templates = (None, "Look at this picture, please: <image>\n{question} B:", None)
    expected = []
    for image, template in zip(images, templates, strict=False):
        with model.open(image, template=template) as session:
            expected.append(session.ask(QUESTIONS, max_new_tokens=4))
    # What stands for a model that sees the padding: it adds to all keys of a row that has some, which have been zeros.
    attention = model.model.get_submodule(str(model.modules.attention[1]))

    def see(_: object, __: object, given: dict[str, Any]) -> None:
        keys = given["past_key_values"].layers[1].keys
        if keys is not None and len(keys) > 1:
            keys += (keys == 0).all((1, 3))[:, None, :1, None] * 3.0

    attention.register_forward_pre_hook(see, with_kwargs=True)
    sessions = [model.open(image, template=template) for image, template in zip(images, templates, strict=False)]
    with pytest.warns(UserWarning, match="run apart where their prefixes have other lengths: padding changes what this model computes"):
        found = asked(sessions)
    assert ids(by_image(found, 3)) == ids(expected)
    rows.clear()
    with pytest.warns(UserWarning, match="run apart where their prefixes have other lengths"):
        asked(sessions)
    assert rows == [2] * 4 + [1] * 4


def test_an_image_at_fault_is_named_and_says_nothing_of_the_model(
    model: probe.Probe, images: list[probe.PreparedImages], rows: list[int]
) -> None:
    inputs = images[1].inputs
    assert inputs is not None
    broken = replace(images[1], inputs={name: torch.full_like(value, torch.nan) for name, value in inputs.items()})
    sessions = [model.open(image) for image in (images[0], broken, images[2])]
    with pytest.raises(NotFinite, match="It begins in state 0 of the vision tower"):
        asked(sessions)
    sound = [sessions[0], sessions[2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(by_image(asked(sound), 2)) == ids(alone(model, [images[0], images[2]]))
    assert rows.count(2) > 0


def test_edited_sessions_run_apart(model: probe.Probe, images: list[probe.PreparedImages]) -> None:
    edit = probe.edit.scale(probe.Hidden(2, at="image"), 0.5)
    sessions = [model.open(images[0], edits=[edit]), model.open(images[1]), model.open(images[2])]
    with pytest.warns(UserWarning, match="image by image: edits name positions of one image's prompts"):
        found = by_image(asked(sessions), 3)
    for session, answers in zip(sessions, found, strict=True):
        assert ids([answers]) == ids([session.ask(QUESTIONS, max_new_tokens=4)])


def test_sessions_of_several_models_or_closed_ones_are_refused(model: probe.Probe, images: list[probe.PreparedImages]) -> None:
    with model.open(images[0]) as first:
        with pytest.raises(InvalidRead, match="Sessions of 2 models share no pass"):
            asked([first, opened().open(images[1])])
        with pytest.raises(InvalidRead, match="drafts= has 1 entries for 3 questions"):
            asked([first], drafts=["yes"])
    with pytest.raises(SessionClosed):
        probe.trace_together([(first, first)], READS)  # type: ignore[list-item]
    assert probe.ask_together([]) == probe.trace_together([], READS) == []
