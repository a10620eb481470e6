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
    with pytest.raises(TemplateError, match=r"No template 'vicuna'. Names: vicuna_v1, mistral_instruct"):
        model.encode(wide_image, "hi", template="vicuna")


def test_raw_prompts_and_messages_are_taken_as_they_are(model: probe.Probe, wide_image: Image.Image) -> None:
    raw = model.encode(wide_image, "Look: <image> What?", chat=False)
    assert (raw.prompt, len(raw.tokens.span("image"))) == ("Look: <image> What?", 16)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a cow?"}]}]
    assert model.encode(wide_image, messages).tokens.text("question") == "Is there a cow?"
    with pytest.raises(TemplateError, match="The prompt has 0 image tokens"):
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
