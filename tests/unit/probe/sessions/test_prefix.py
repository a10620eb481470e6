"""What is particular to a session that shares its image's prefix: how often the image is read, and what goes wrong and right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image

import probe
from probe.batcher import TOKEN_BUDGET
from probe.errors import InvalidPolicy, InvalidRead, TemplateError
from probe.runtime import Runtime
from probe.sessions.continuations import Continuations, PackedInputs, last_logits
from probe.sessions.prefixes import prefix_length, read_prefix
from probe.tracing.edits import EditPlan
from probe.tracing.sites import StateAddress
from tests import processors, zoo
from tests.processors.native import NATIVE

QUESTIONS = ["Is there a cat?", "What colour is the dog that sleeps on the mat?", "Why?", "Is there a boat in the picture?"]
POLICIES = ("packed", "batched")


def opened(**options: object) -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False, **options)


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    return opened()


@pytest.fixture(scope="module")
def alone(model: probe.Probe, wide_image: Image.Image) -> list[tuple[int, ...]]:
    return answered(model, wide_image, "none")


@pytest.fixture
def tower_runs(model: probe.Probe) -> Iterator[list[int]]:
    """One entry for each time that the vision tower ran."""
    runs: list[int] = []
    hook = model.model.get_submodule(model.modules.vision).register_forward_hook(lambda *_: runs.append(1))
    yield runs
    hook.remove()


@pytest.fixture(scope="module")
def tall_image(wide_image: Image.Image) -> Image.Image:
    return wide_image.transpose(Image.Transpose.ROTATE_90)


def answered(model: probe.Probe, image: Image.Image, policy: str | None, questions: list[str] | None = None) -> list[tuple[int, ...]]:
    with model.open(image, policy=policy) as session:
        return [answer.tokens.ids for answer in session.ask(questions or QUESTIONS, max_new_tokens=6)]


def median_gate(model: probe.Probe, image: Image.Image) -> probe.Choice:
    """A gate that half of the questions pass."""
    gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))
    with model.open(image, policy="none") as session:
        margins = sorted(answer.margin or 0.0 for answer in session.ask(QUESTIONS, max_new_tokens=0, gate=gate))
    return replace(gate, threshold=(margins[1] + margins[2]) / 2)


def failing_once(monkeypatch: pytest.MonkeyPatch, error: Exception, fails: Callable[[PackedInputs], bool]) -> list[int]:
    """The model's forwards after a prefix raise an error the first time that their inputs are as said; how many sequences each had."""
    sizes: list[int] = []
    failed: list[int] = []

    def failing(runtime: Runtime, packed: PackedInputs, edits: EditPlan | None, counts: Sequence[int] | None = None) -> torch.Tensor:
        sizes.append(len(packed.slots))
        if fails(packed) and not failed:
            failed.append(1)
            raise error
        return last_logits(runtime, packed, edits, counts)

    monkeypatch.setattr("probe.sessions.shared.asking.last_logits", failing)
    return sizes


@pytest.mark.parametrize("policy", POLICIES)
def test_the_image_is_read_once(model: probe.Probe, wide_image: Image.Image, policy: str, tower_runs: list[int]) -> None:
    with model.open(wide_image, policy=policy, keep=[probe.Hidden([1, 2], at=("image", "class")), probe.Vision([-2])]) as session:
        answers = session.ask(QUESTIONS, max_new_tokens=3)
        answers += session.ask(QUESTIONS[:2], max_new_tokens=3)
        session.trace(answers, [probe.Hidden([2], at="image"), probe.Vision([-2]), probe.Attention("all", query="answer", key="image")])
    assert len(tower_runs) == 1


def test_a_read_of_the_image_that_was_not_kept_costs_one_more_pass(
    model: probe.Probe, wide_image: Image.Image, tower_runs: list[int]
) -> None:
    with model.open(wide_image, keep=[probe.Hidden([1], at="image")]) as session:
        answers = session.ask(QUESTIONS, max_new_tokens=3)
        traces = session.trace(answers, [probe.Hidden([1, 3], at="image"), probe.Vision([0])])
        session.trace(answers, [probe.Hidden([3], at="image"), probe.Vision([0])])
    assert len(tower_runs) == 2
    expected = model.run(answers[2], [probe.Hidden([3], at="image"), probe.Vision([0])])
    torch.testing.assert_close(traces[2].hidden(layer=3).data, expected.hidden(layer=3).data, rtol=0, atol=1e-5)
    torch.testing.assert_close(traces[2].vision().data, expected.vision().data, rtol=0, atol=0)


def test_image_states_are_held_once_for_all_answers(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        traces = session.trace(session.ask(QUESTIONS, max_new_tokens=3), [probe.Hidden([2], at="image")])
    assert len({trace.captured.states[StateAddress("Hidden", 2), "image"][0].data_ptr() for trace in traces}) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_attention_from_the_image_is_read_in_a_pass_of_its_own(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    read = probe.Attention([1], query=("image", "answer"), key="image")
    with model.open(wide_image, policy=policy) as session:
        answers = session.ask(QUESTIONS, max_new_tokens=3)
        traces = session.trace(answers, [read])
    torch.testing.assert_close(traces[1].attention().data, model.run(answers[1], read).attention().data, rtol=0, atol=0)


@pytest.mark.parametrize("policy", POLICIES)
def test_when_memory_runs_out_half_as_much_is_tried_and_remembered(
    model: probe.Probe, wide_image: Image.Image, policy: str, alone: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.runtime.batcher(policy, "ask"), "limit", 1000)
    sizes = failing_once(monkeypatch, torch.OutOfMemoryError("no memory left"), lambda packed: len(packed.slots) == 4)
    assert answered(model, wide_image, policy) == alone
    assert max(sizes[1:]) == 2
    first = len(sizes)
    assert answered(model, wide_image, policy) == alone
    assert max(sizes[first:]) == 2


def test_memory_that_is_short_for_one_question_alone_is_an_error(
    model: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, torch.OutOfMemoryError("no memory left"), lambda packed: len(packed.slots) == 1)
    with model.open(wide_image) as session, pytest.raises(torch.OutOfMemoryError):
        session.ask(QUESTIONS[:1], max_new_tokens=3)


@pytest.mark.parametrize("policy", POLICIES)
def test_after_an_error_the_session_can_be_used(
    model: probe.Probe, wide_image: Image.Image, policy: str, alone: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, ValueError("a stage failed"), lambda packed: packed.inputs["input_ids"].shape[1] <= 4)
    with model.open(wide_image, policy=policy) as session:
        with pytest.raises(ValueError, match="a stage failed"):
            session.ask(QUESTIONS, max_new_tokens=6)
        assert [answer.tokens.ids for answer in session.ask(QUESTIONS, max_new_tokens=6)] == alone


def test_no_questions_have_no_answers(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        assert session.ask([]) == []
        with pytest.raises(InvalidRead, match="texts= has 1 entries for 2 questions"):
            session.answer(["?", "?"], ["No."])
        assert session.trace([], [probe.Hidden([1], at="image")]) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_very_long_question_stands_among_short_ones(
    model: probe.Probe, wide_image: Image.Image, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = ["Is there a cat?", "and a dog " * 680, "Why?"]
    assert len(model.encode(wide_image, questions[1]).tokens) > 2000
    monkeypatch.setattr(model.runtime.batcher(policy, "ask"), "limit", 100_000)
    sizes = failing_once(monkeypatch, ValueError(), lambda packed: False)
    assert answered(model, wide_image, policy, questions) == answered(model, wide_image, "none", questions)
    assert sizes[0] == 3


def test_what_was_given_up_stays_given_up(model: probe.Probe, wide_image: Image.Image) -> None:
    encodings = [model.encode(wide_image, question) for question in QUESTIONS]
    prefix = read_prefix(model.runtime, encodings[0], prefix_length(encodings[0]), ())
    packed = Continuations(model.runtime, "packed", [prefix], [0] * 4)
    own = [encoding.tokens.ids[len(prefix) :][:3] for encoding in encodings]
    last_logits(model.runtime, packed.next_inputs(own))
    packed.select_sequences([0, 2, 3])
    packed.select_sequences([0, 1, 2])
    last_logits(model.runtime, packed.next_inputs([one[:1] for one in (own[0], own[2], own[3])]))
    assert packed._owner[0, len(prefix) :].tolist() == [0] * 3 + [-2] * 3 + [1] * 3 + [2] * 3 + [0, 1, 2]
    packed.select_sequences([1])
    assert packed._owner[0, len(prefix) :].tolist() == [0] * 4
    assert packed._cache.get_seq_length() == len(prefix) + 4


@pytest.mark.parametrize("policy", POLICIES)
def test_room_is_made_for_the_steps_that_may_come_and_for_no_more(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    encodings = [model.encode(wide_image, question) for question in QUESTIONS]
    prefix = read_prefix(model.runtime, encodings[0], prefix_length(encodings[0]), ())
    for steps, room in ((0, 0), (3, 3)):
        sequences = Continuations(model.runtime, policy, [prefix], [0] * 4, steps)
        last_logits(model.runtime, sequences.next_inputs([encoding.tokens.ids[len(prefix) :] for encoding in encodings]))
        for layer in sequences._layers:
            buffers = layer._buffers
            assert buffers is not None
            assert buffers[0].shape[-2] == layer.keys.shape[-2] + (4 * room if policy == "packed" else room)


def test_long_questions_go_through_the_model_apart(model: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "and a dog " * 120
    own = len(model.encode(wide_image, long).tokens) - len(model.encode(wide_image, "").tokens)
    assert 2 * own < TOKEN_BUDGET["score"] < 3 * own
    monkeypatch.setattr(model.runtime.batcher("packed", "ask"), "limit", TOKEN_BUDGET["ask"])
    sizes = failing_once(monkeypatch, ValueError(), lambda packed: False)
    with model.open(wide_image, policy="packed") as session:
        session.ask([long] * 4, max_new_tokens=1)
    assert sizes == [2, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_gate_holds_some_questions_back_and_the_others_go_on(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    gate = median_gate(model, wide_image)
    found = {}
    for way in ("none", policy):
        with model.open(wide_image, policy=way) as session:
            found[way] = session.ask(QUESTIONS, max_new_tokens=8, gate=gate)
    assert [answer.tokens.ids for answer in found[policy]] == [answer.tokens.ids for answer in found["none"]]
    assert sorted(len(answer.tokens.span("answer")) for answer in found[policy]) == [0, 0, 8, 8]


def test_an_image_token_among_an_answers_ids_is_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        (answer,) = session.ask(["?"], max_new_tokens=2)
    with pytest.raises(TemplateError, match="ids hold the image token"):
        answer.with_answer_ids((5, model.runtime.image_token_id, 6))


@pytest.mark.parametrize("policy", POLICIES)
def test_settings_of_the_checkpoint_hold_together_as_they_do_alone(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    settings = model.model.generation_config
    plain = answered(model, wide_image, policy)
    settings.repetition_penalty, settings.no_repeat_ngram_size = 1.8, 2
    try:
        together, alone = answered(model, wide_image, policy), answered(model, wide_image, "none")
    finally:
        settings.repetition_penalty, settings.no_repeat_ngram_size = 1.0, 0
    assert together == alone != plain


@pytest.mark.parametrize(("name", "value"), [("num_beams", 2), ("min_new_tokens", 1), ("forced_eos_token_id", 1), ("min_length", 5)])
def test_settings_that_cannot_be_followed_leave_each_question_alone(
    model: probe.Probe, wide_image: Image.Image, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model.generation_config, name, value)
    with model.open(wide_image) as session:
        assert session.policy == "none"
    with pytest.raises(InvalidPolicy, match=f"its generation settings have {name}"):
        model.open(wide_image, policy="packed")


@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_tokens_that_the_checkpoint_never_says_are_never_said(
    model: probe.Probe, wide_image: Image.Image, policy: str, alone: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = alone[0][-1]
    monkeypatch.setattr(model.model.generation_config, "suppress_tokens", [said])
    (answer,) = answered(model, wide_image, policy, QUESTIONS[:1])
    assert said not in answer[-6:]


@pytest.mark.parametrize(
    ("name", "value"), [("layer_types", ["a_kind_of_its_own", "full_attention"] * 2), ("use_bidirectional_attention", True)]
)
def test_decoders_that_our_masks_do_not_fit_are_asked_alone(name: str, value: object, wide_image: Image.Image) -> None:
    other = opened()
    setattr(other.model.config.get_text_config(), name, value)
    with other.open(wide_image) as session:
        assert session.policy == "none"
    with pytest.raises(InvalidPolicy, match="cannot build a mask"):
        other.open(wide_image, policy="packed")


def test_prompts_beyond_the_length_that_fixes_the_rotary_frequencies_are_asked_alone(wide_image: Image.Image) -> None:
    other = opened()
    other.model.config.get_text_config().rope_parameters = {"rope_type": "dynamic", "original_max_position_embeddings": 60, "factor": 2.0}
    with other.open(wide_image, policy="packed") as session:
        session.ask(["cat"], max_new_tokens=2)
        with pytest.raises(InvalidPolicy, match="rotary frequencies"):
            session.ask(["cat " * 60], max_new_tokens=2)


def test_prompts_that_do_not_begin_with_the_image_are_asked_alone(model: probe.Probe, wide_image: Image.Image) -> None:
    template = "USER: {question}\n<image> ASSISTANT:"
    with model.open(wide_image, template=template) as session:
        together = [answer.tokens.ids for answer in session.ask(QUESTIONS, max_new_tokens=3)]
    encodings = [model.encode(wide_image, question, template=template) for question in QUESTIONS]
    assert together == [model.generate(encoding, max_new_tokens=3).tokens.ids for encoding in encodings]
    with model.open(wide_image, template=template, policy="packed") as session, pytest.raises(InvalidPolicy, match="Put the image before"):
        session.ask(QUESTIONS)


def test_an_answer_of_another_image_is_read_with_its_own(model: probe.Probe, wide_image: Image.Image, tall_image: Image.Image) -> None:
    with model.open(tall_image) as other:
        (answer,) = other.ask(["Is there a cat?"], max_new_tokens=3)
    with model.open(wide_image) as session:
        session.ask(["Is there a cat?"], max_new_tokens=3)
        (trace,) = session.trace([answer], [probe.Hidden([2], at="image")])
    expected = model.run(answer, probe.Hidden([2], at="image"))
    torch.testing.assert_close(trace.hidden().data, expected.hidden().data, rtol=0, atol=0)


@pytest.mark.parametrize("policy", POLICIES)
def test_eager_attention_takes_the_masks_too(wide_image: Image.Image, policy: str, alone: list[tuple[int, ...]]) -> None:
    eager = opened()
    eager.model.set_attn_implementation("eager")
    assert answered(eager, wide_image, policy) == alone


def test_a_kernel_without_masks_leaves_each_question_alone(wide_image: Image.Image) -> None:
    other = opened()
    other.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with other.open(wide_image) as session:
        assert session.policy == "none"
    assert "takes no mask" in other.inspect()["prefix sharing"]


def test_sessions_can_be_interleaved_where_positions_depend_on_the_image(wide_image: Image.Image, tall_image: Image.Image) -> None:
    hf, processor = processors.build("qwen2_5_vl")
    model = probe.load(model=hf, processor=processor)
    expected = [answered(model, image, "none") for image in (wide_image, tall_image)]
    with model.open(wide_image) as first, model.open(tall_image) as second:
        found = [[session.ask([question], max_new_tokens=6)[0].tokens.ids for session in (first, second)] for question in QUESTIONS]
    assert [list(column) for column in zip(*found, strict=True)] == expected


def test_two_threads_can_ask_one_session(model: probe.Probe, wide_image: Image.Image, alone: list[tuple[int, ...]]) -> None:
    found: dict[int, list[tuple[int, ...]]] = {}
    with model.open(wide_image, policy="packed") as session:

        def ask(number: int) -> None:
            found[number] = [answer.tokens.ids for answer in session.ask(QUESTIONS, max_new_tokens=6)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {0: alone, 1: alone}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_begun_answer_can_be_gated(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    gate = median_gate(model, wide_image)
    begin = ["yes, it is."] * len(QUESTIONS)
    found = {}
    for way in ("none", policy):
        with model.open(wide_image, policy=way) as session:
            found[way] = session.ask(QUESTIONS, max_new_tokens=3, gate=gate, begin=begin)
    assert [answer.tokens.ids for answer in found[policy]] == [answer.tokens.ids for answer in found["none"]]
    assert [answer.margin for answer in found[policy]] == pytest.approx([answer.margin for answer in found["none"]], abs=1e-4)
    assert {answer.text.startswith("yes, it is.") for answer in found[policy]} == {True, False}


def test_the_prefix_reaches_to_the_question(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    image, question = encoding.tokens.span("image"), encoding.tokens.span("question")
    assert image.positions[-1] + 1 < question.positions[0] == prefix_length(encoding)
    with model.open(wide_image, policy="packed") as session:
        session.ask(QUESTIONS, max_new_tokens=1)
        assert [len(prefix) for prefix in session._state.prefixes._by_changes.values()] == [question.positions[0]]


@pytest.mark.parametrize("template", ["USER: {question}\n<image>\nASSISTANT:", "{question}<image></s>ASSISTANT:"])
def test_a_question_before_the_image_is_in_no_prefix_of_another(model: probe.Probe, wide_image: Image.Image, template: str) -> None:
    questions = ["Is there a cat?", "Is there a cat?", "Is there a dog?"]
    encodings = [model.encode(wide_image, question, template=template) for question in questions]
    with model.open(wide_image, template=template, policy="packed") as session:
        together = session.ask(questions[:2], max_new_tokens=4)
        with pytest.raises(InvalidPolicy, match="Put the image before"):
            session.ask(questions, max_new_tokens=4)
        traces = session.trace([*together, *session.answer(questions[2:], ["No."])], [probe.Hidden([3], at="prompt")])
    assert [answer.tokens.ids for answer in together] == [model.generate(one, max_new_tokens=4).tokens.ids for one in encodings[:2]]
    for trace, encoding in zip(traces, encodings, strict=True):
        expected = model.run(encoding, probe.Hidden([3], at="prompt")).hidden().data
        torch.testing.assert_close(trace.hidden().data, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_question_that_changes_the_token_before_it_shortens_the_prefix(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    questions = ["  And a dog?", "Why?", "\nWhy?", ""]
    template = "<image>\n\n {question} ASSISTANT:"
    lengths = []
    with model.open(wide_image, template=template, policy=policy) as session:
        together = []
        for question in questions:
            together += [answer.tokens.ids for answer in session.ask([question], max_new_tokens=4)]
            lengths.append(session._state.prefixes._length)
        together += [answer.tokens.ids for answer in session.ask(questions, max_new_tokens=4)]
    alone = [model.generate(model.encode(wide_image, one, template=template), max_new_tokens=4).tokens.ids for one in questions]
    assert together == alone * 2
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_edit_that_reaches_into_the_prefix_of_some_questions_alone_leaves_each_alone(
    model: probe.Probe, wide_image: Image.Image, policy: str
) -> None:
    short, long = "Why?", "Is there a boat in the picture, or is there none?"
    at = -len(model.encode(wide_image, short).tokens.ids) + prefix_length(model.encode(wide_image, short)) - 1
    edit = probe.edit.scale(probe.Hidden(1, at=at), -4.0)
    with model.open(wide_image) as session:
        traces = session.trace(session.answer([long, short], ["", ""]), [probe.Hidden([3], at="prompt")], edits=[edit])
        with model.open(wide_image, policy=policy) as strict, pytest.raises(InvalidPolicy):
            strict.ask([long, short], max_new_tokens=2, edits=[edit])
    for trace, question in zip(traces, (long, short), strict=True):
        expected = model.run(model.encode(wide_image, question), probe.Hidden([3], at="prompt"), edits=[edit])
        torch.testing.assert_close(trace.hidden().data, expected.hidden().data, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("qwen3_5", "recurrent state of its blocks"), ("lfm2_vl", "recurrent state of its blocks"), ("llama4", "in the cache")],
)
def test_why_questions_are_not_put_into_one_row_is_said(name: str, reason: str, wide_image: Image.Image) -> None:
    hf, processor = processors.build(name) if name in processors.FAMILIES else NATIVE[name]()
    other = probe.load(model=hf, processor=processor)
    assert other.inspect()["prefix sharing"].startswith("batched (not packed: ")
    assert reason in other.inspect()["prefix sharing"]
    with pytest.raises(InvalidPolicy, match=reason):
        other.open(wide_image, policy="packed")


def test_a_forward_that_is_not_asked_for_fewer_logits_is_read_at_the_right_ones(
    model: probe.Probe, wide_image: Image.Image, alone: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = type(model.model).forward

    def all_logits(self: object, *given: object, logits_to_keep: object = 0, **options: object) -> object:
        return forward(self, *given, **options)

    monkeypatch.setattr(type(model.model), "forward", all_logits)
    other = opened()
    for policy in POLICIES:
        assert answered(other, wide_image, policy) == alone
    encoding = other.encode(wide_image, QUESTIONS[0])
    edits = [[probe.edit.scale(probe.Hidden(2, at=-2), 3.0)]]
    (trace,) = other.run_variants(encoding, [probe.Logits(at=(-1, -2))], edits)
    expected = other.run(encoding, [probe.Logits(at=(-1, -2))], edits=edits[0])
    torch.testing.assert_close(trace.logits().data, expected.logits().data, rtol=0, atol=1e-5)
