"""Sessions, and how a model is asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import probe
from probe.errors import InvalidRead, NestedTrace, ProcessorNeeded, SessionClosed, SpanNotFound, TemplateError
from tests import zoo


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


def test_questions_are_answered_in_order(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        answers = session.ask(["Is there a cat?", "Is there a dog?"], max_new_tokens=4)
    alone = [model.generate(model.encode(wide_image, q), max_new_tokens=4) for q in ("Is there a cat?", "Is there a dog?")]
    assert [a.text for a in answers] == [a.text for a in alone]
    assert answers[0].text == answers[0].tokens.text("answer")
    assert answers[0].margin is None


def test_the_gate_scores_yes_against_no(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    logits = model.next_logits(encoding)
    ids = {word: zoo.tokenizer().convert_tokens_to_ids(f"▁{word}") for word in ("yes", "Yes", "no", "No")}
    margin = float(max(logits[ids["yes"]], logits[ids["Yes"]]) - max(logits[ids["no"]], logits[ids["No"]]))
    with model.open(wide_image) as session:
        choice = {"yes": ("yes", "Yes"), "no": ("no", "No")}
        (passed,) = session.ask(["Is there a cat?"], max_new_tokens=3, gate=probe.Choice(**choice, threshold=margin - 1))
        (held,) = session.ask(["Is there a cat?"], max_new_tokens=3, gate=probe.Choice(**choice, threshold=margin))
    assert passed.margin == pytest.approx(margin)
    assert held.margin == passed.margin
    assert (len(passed.tokens.span("answer")), held.text) == (3, "")


def test_the_gate_can_count_every_token_that_begins_a_word(model: probe.Probe, wide_image: Image.Image) -> None:
    pieces = {"yes": "yes ▁yes Yes ▁Yes ye ▁ye ▁Ye y ▁y Y ▁Y", "no": "no ▁no No ▁No NO ▁NO n ▁n N ▁N"}  # all that the vocabulary has
    probabilities = model.next_logits(model.encode(wide_image, "Is there a cat?")).double().softmax(-1)
    yes, no = (probabilities[zoo.tokenizer().convert_tokens_to_ids(pieces[word].split())].sum() for word in ("yes", "no"))
    gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), tokens="every")
    with model.open(wide_image) as session:
        (answer,) = session.ask(["Is there a cat?"], max_new_tokens=0, gate=gate)
    assert answer.margin == pytest.approx(float((yes / no).log()), abs=1e-4)


def test_a_gates_word_that_no_token_begins_is_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    gate = probe.Choice(yes=("?",), no=("no",), tokens="every")
    with model.open(wide_image) as session, pytest.raises(InvalidRead, match=r"No token of the vocabulary begins .* '\?'"):
        session.ask(["Is there a cat?"], max_new_tokens=0, gate=gate)


def test_an_answer_can_be_begun_for_the_model(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        (answer,) = session.ask(["Is there a cat?"], max_new_tokens=3, begin=["yes, it contains a cat."])
    assert answer.text.startswith("yes, it contains a cat.")
    assert len(answer.tokens.span("answer")) == 3 + 7


def test_given_answers_are_traced(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image, keep=[probe.Hidden([2], at="image")]) as session:
        answers = session.answer(["Is there a cat?"], ["yes, a cat."])
        (trace,) = session.trace(answers, [probe.Hidden([1, 2], at=("image", "answer"))])
    assert trace.hidden("image", layer=2).grid().shape == {"batch": 1, "row": 4, "col": 4, "feature": 48}


def test_a_closed_session_says_so(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        (answer,) = session.answer(["?"], ["No."])
    for use in (lambda: session.ask(["?"]), lambda: session.answer(["?"], ["No."]), lambda: session.trace([answer], [probe.Projected()])):
        with pytest.raises(SessionClosed, match=r"Open another one with model\.open"):
            use()


def test_an_unknown_policy_is_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    with pytest.raises(InvalidRead, match="policy='shared'"):
        model.open(wide_image, policy="shared")


def test_bad_reads_are_refused_before_any_forward(model: probe.Probe, wide_image: Image.Image) -> None:
    calls: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    encoding = model.encode(wide_image, "Is there a cat?")
    for reads, error in (
        ([probe.Hidden([9])], probe.errors.InvalidLayer),
        ([probe.Hidden([1], at="answer")], SpanNotFound),
        ([probe.Attention([7], query=-1)], probe.errors.InvalidLayer),
        ([], InvalidRead),
    ):
        with pytest.raises(error):
            model.run(encoding, reads)
    hook.remove()
    assert calls == []


def test_the_forward_stops_after_the_last_read(model: probe.Probe, wide_image: Image.Image) -> None:
    ran: list[int] = []
    blocks = model.model.model.language_model.layers
    hooks = [block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(blocks)]
    model.run(model.encode(wide_image, "Is there a cat?"), probe.Hidden([2], at="image"))
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]


def test_two_threads_on_one_model_wait_for_each_other(model: probe.Probe, wide_image: Image.Image) -> None:
    encodings = [model.encode(wide_image, f"Is there a {name}?") for name in ("cat", "dog")]
    read = probe.Hidden([3], at=-1)
    alone = [model.run(e, read).hidden().data for e in encodings]
    together: dict[tuple[int, int], torch.Tensor] = {}

    def work(which: int) -> None:
        for turn in range(5):
            together[which, turn] = model.run(encodings[which], read).hidden().data

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 10
    assert all(torch.equal(states, alone[which]) for (which, _), states in together.items())


def test_a_run_inside_a_run_is_an_error_and_the_model_stays_usable(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding, read = model.encode(wide_image, "Is there a cat?"), probe.Hidden([3], at=-1)
    hook = model.model.model.language_model.layers[1].register_forward_pre_hook(lambda *_: model.run(encoding, read) and None)
    with pytest.raises(NestedTrace, match="A run was started inside a run of the same model"):
        model.run(encoding, read)
    hook.remove()
    assert model.run(encoding, read).hidden().data.shape == (1, 1, 1, 48)


def test_templates_go_by_name(model: probe.Probe, wide_image: Image.Image) -> None:
    vicuna = model.encode(wide_image, "Is there a cat?", template="vicuna_v1")
    assert vicuna.prompt.startswith("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful,")
    assert vicuna.prompt.endswith("USER: <image>\nIs there a cat? ASSISTANT:")
    assert model.encode(wide_image, "hi", template="mistral_instruct").prompt == "[INST] <image>\nhi [/INST]"
    with pytest.raises(TemplateError, match=r"No template 'vicuna'. Names: vicuna_v1, mistral_instruct, llava_v1, llava_hf"):
        model.encode(wide_image, "hi", template="vicuna")


def test_raw_prompts_and_messages_are_taken_as_they_are(model: probe.Probe, wide_image: Image.Image) -> None:
    raw = model.encode(wide_image, "Look: <image> What?", chat=False)
    assert (raw.prompt, len(raw.tokens.span("image"))) == ("Look: <image> What?", 16)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a cow?"}]}]
    assert model.encode(wide_image, messages).tokens.text("question") == "Is there a cow?"
    with pytest.raises(TemplateError, match=r"The prompt has 0 image tokens \(<image>\); images given: 1\."):
        model.encode(wide_image, "no image here", chat=False)
    with pytest.raises(TemplateError, match="holds the image token"):
        model.encode(wide_image, "What is <image>?")


def test_two_images_have_spans_of_their_own(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    encoding = probe.load(model=hf, processor=processor).encode([wide_image, wide_image.resize((30, 30))], "Which is wider?")
    assert [len(encoding.tokens.span(f"image {i}")) for i in (0, 1)] == [16, 16]
    assert len(encoding.tokens.span("image")) == 32


def test_the_image_is_the_same_from_a_path_an_array_and_a_picture(model: probe.Probe, wide_image: Image.Image, tmp_path: Path) -> None:
    wide_image.save(tmp_path / "a.png")
    import numpy as np

    made = [model.encode(image, "?").inputs["pixel_values"] for image in (wide_image, str(tmp_path / "a.png"), np.asarray(wide_image))]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_a_model_without_a_processor_says_what_it_needs(wide_image: Image.Image) -> None:
    bare = probe.load(model=zoo.llava()[0])
    with pytest.raises(ProcessorNeeded, match=r"probe\.load\(model=\.\.\., processor=\.\.\.\)"):
        bare.encode(wide_image, "Is there a cat?")


def test_the_question_is_the_users_words_not_the_first_that_read_like_them(model: probe.Probe, wide_image: Image.Image) -> None:
    twice = "Q: {question} <image>\nAnswer A or B ASSISTANT:"
    tokens = model.encode(wide_image, "A", template=twice).tokens
    assert max(tokens.span("question").positions) < min(tokens.span("image").positions)
    turn = {"role": "user", "content": [{"type": "text", "text": "What is it?"}]}
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    said = {"role": "assistant", "content": "A cat."}
    chat = model.encode(wide_image, [first, said, turn]).tokens
    assert chat.text("question") == "What is it?"
    assert min(chat.span("question").positions) > max(chat.word("cat", within="prompt").positions)


def test_projected_tokens_do_not_add_a_layer_to_the_hidden_states(model: probe.Probe, wide_image: Image.Image) -> None:
    trace = model.run(model.encode(wide_image, "Is there a cat?"), [probe.Hidden([2, 3], at="image"), probe.Projected()])
    assert trace.hidden("image").coords["layer"] == (2, 3)
    assert torch.equal(trace.projected().data, trace.hidden("image", layer=0).data)


def test_the_check_of_rows_is_not_used_up_by_an_empty_span(model: probe.Probe, wide_image: Image.Image) -> None:
    fresh = probe.load(model=model.model, processor=model.processor, resize="stretch", tiles=False)
    answer = fresh.encode(wide_image, "Is there a cat?").with_answer("No.")
    assert fresh.run(answer, probe.Attention([1], query=probe.Span(()))).row_differences == {}
    assert list(fresh.run(answer, probe.Attention([1], query="answer")).row_differences) == [1]


def test_asking_and_reading_from_two_threads_is_in_turn(model: probe.Probe, wide_image: Image.Image) -> None:
    other = probe.load(model=model.model, processor=model.processor, resize="stretch", tiles=False)
    encoding = model.encode(wide_image, "Is there a cat?")
    expected = model.generate(encoding, max_new_tokens=3).text
    answers: list[str] = []

    def read() -> None:
        for _ in range(5):
            other.run(encoding, probe.Hidden([3], at=-1))

    def ask() -> None:
        for _ in range(5):
            answers.append(model.generate(encoding, max_new_tokens=3).text)

    threads = [threading.Thread(target=read), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 5


def test_hugging_faces_own_options_pass_through(model: probe.Probe, wide_image: Image.Image) -> None:
    from transformers import GenerationConfig

    encoding = model.encode(wide_image, "Is there a cat?")
    plain = model.generate(encoding, max_new_tokens=4)
    assert model.generate(encoding, max_new_tokens=4, use_cache=False).tokens.ids == plain.tokens.ids
    assert len(model.generate(encoding, max_length=len(encoding.tokens) + 3).tokens.span("answer")) == 3
    hot = GenerationConfig(do_sample=True, temperature=50.0, max_new_tokens=4)
    torch.manual_seed(0)
    assert len({model.generate(encoding, generation_config=hot).tokens.ids for _ in range(4)}) > 1


@pytest.mark.parametrize(
    "option", ["output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate"]
)
def test_what_an_answer_cannot_hold_is_refused_at_generation(option: str, model: probe.Probe, wide_image: Image.Image) -> None:
    from transformers import GenerationConfig

    encoding = model.encode(wide_image, "Is there a cat?")
    for options in ({option: True}, {"generation_config": GenerationConfig(max_new_tokens=2, **{option: True})}):
        with pytest.raises(probe.ProbeError, match=rf"{option}=True: generate\(\) returns an Answer.* with run\("):
            model.generate(encoding, **options)
    assert model.generate(encoding, max_new_tokens=2, **{option: False}).tokens.span("answer").positions


def test_spans_of_an_earlier_answer_go_with_it(model: probe.Probe, wide_image: Image.Image) -> None:
    first = model.encode(wide_image, "Is there a cat?").with_answer("yes, it contains a cat.")
    first = first.with_spans({"word": first.tokens.word("cat"), "asked": first.tokens.word("cat", within="question")})
    second = first.with_answer("No.")
    assert list(second.tokens.spans) == ["prompt", "image", "image 0", "question", "asked", "answer"]


def test_an_answer_that_has_ended_is_not_gone_on_with(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    ended = encoding.with_answer_ids((5613, 2))
    assert len(ended.tokens.span("end")) == 1
    assert model.generate(ended) is ended
    going = model.generate(encoding.with_answer("yes"), max_new_tokens=2)
    assert len(going.tokens.span("answer")) == 3


def test_an_image_token_in_an_answer_is_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    with pytest.raises(TemplateError, match="holds the image token"):
        model.encode(wide_image, "?").with_answer("a <image> b")


def test_a_gate_needs_words_on_both_sides() -> None:
    with pytest.raises(InvalidRead, match=r"Choice\(no=\(\)\)"):
        probe.Choice(yes=("yes",), no=())


def test_a_gate_counts_own_tokens_or_every() -> None:
    with pytest.raises(InvalidRead, match=r'tokens is "own" or "every"'):
        probe.Choice(yes=("yes",), no=("no",), tokens="all")  # type: ignore[arg-type]


def test_what_is_kept_is_checked_when_the_session_opens(model: probe.Probe, wide_image: Image.Image) -> None:
    with pytest.raises(probe.errors.InvalidLayer, match="Layer 99"):
        model.open(wide_image, keep=[probe.Hidden([99], at="image")])


def test_logits_of_two_reads_have_to_be_named(model: probe.Probe, wide_image: Image.Image) -> None:
    trace = model.run(model.encode(wide_image, "?"), [probe.Logits(at=-1), probe.Logits(at="question"), probe.Hidden([1])])
    assert trace.logits(-1).data.shape == (1, 1, 32064)
    with pytest.raises(probe.errors.NotRead, match="Name a position: logits were read at -1, 'question'"):
        trace.logits()
    with pytest.raises(probe.errors.NotRead, match="attention"):
        trace.attention()


def test_padding_with_a_hole_is_refused() -> None:
    bare = probe.load(model=zoo.llava()[0])
    ids = torch.tensor([[1, 2, 3, 4]])
    with pytest.raises(InvalidRead, match="padding lies at one or both ends"):
        bare.run({"input_ids": ids, "attention_mask": torch.tensor([[1, 0, 1, 1]])}, probe.Hidden([1]))
    assert bare.run({"input_ids": ids, "attention_mask": None}, probe.Hidden([1])).hidden().data.shape == (1, 1, 4, 48)


def test_one_text_in_place_of_questions_is_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    with model.open(wide_image) as session:
        with pytest.raises(InvalidRead, match=r"questions='Is it\?' is one text\. Pass a list"):
            session.ask("Is it?")
        with pytest.raises(InvalidRead, match="is one text"):
            session.answer("Is it?", "no")


@pytest.mark.parametrize("policy", ["packed", "none"])
def test_a_negative_number_of_tokens_is_refused_under_every_policy(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    with model.open(wide_image, policy=policy) as session, pytest.raises(InvalidRead, match="max_new_tokens=-3"):
        session.ask(["Is it?"], max_new_tokens=-3)


def test_a_plain_encoding_is_for_run_alone(model: probe.Probe, wide_image: Image.Image) -> None:
    plain = dict(model.encode(wide_image, "Is it?").inputs)
    with pytest.raises(InvalidRead, match=r"generate\(\) takes what encode\(\) returned, got a dict"):
        model.generate(plain)
    with pytest.raises(InvalidRead, match=r"next_logits\(\) takes"):
        model.next_logits(plain)


def test_a_generation_config_of_another_kind_is_not_ignored(model: probe.Probe, wide_image: Image.Image) -> None:
    with pytest.raises(probe.ProbeError, match=r"generation_config= is a dict\. Pass a transformers\.GenerationConfig"):
        model.generate(model.encode(wide_image, "Is it?"), generation_config={"max_new_tokens": 2})
