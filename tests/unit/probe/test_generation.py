"""Generation: the probabilities of generated tokens, and several answers at once.

Norm: the largest absolute difference of log-probabilities. Against the logits of the same steps, as Hugging Face returns them: two ways to
subtract the same logarithm of a sum over 32,064 logits, 1e-5. Against one teacher-forced pass: cached steps sum in another order, 5e-5.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor

import probe
from probe.generated import ChosenScores
from tests import families, zoo

QUESTION = "Is there a cat?"


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture(scope="module")
def prompt(model: probe.Probe, wide_image: Image.Image) -> probe.Encoding:
    return model.encode(wide_image, QUESTION)


def forced(model: probe.Probe, answer: probe.Answer, count: int) -> torch.Tensor:
    """The log-probabilities of the last tokens by one pass of plain Hugging Face."""
    with torch.no_grad():
        logits = model.model(**answer.inputs).logits[0].float()
    last = probe.Span(range(len(answer.tokens) - count, len(answer.tokens)))
    rows = logits[list(answer.tokens.predicting(last).positions)].log_softmax(-1)
    return rows[torch.arange(count), list(answer.tokens.ids[-count:])]


def largest(ours: torch.Tensor | None, theirs: torch.Tensor) -> float:
    assert ours is not None
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2}, {"do_sample": True, "temperature": 3.0, "top_k": 50}]
)
def test_scores_are_those_of_a_teacher_forced_run(model: probe.Probe, prompt: probe.Encoding, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    answer = model.generate(prompt, scores=True, max_new_tokens=6, **options)
    assert len(answer.tokens.span("answer")) == 6
    assert largest(answer.log_probabilities, forced(model, answer, 6)) < 5e-5
    logits = model.run(answer, probe.Logits(at=answer.tokens.predicting("answer"))).logits().data[0].float().log_softmax(-1)
    chosen = logits[range(6), list(answer.tokens.ids[-6:])]
    assert largest(answer.log_probabilities, chosen) < 5e-5
    assert answer.probabilities is not None
    assert torch.equal(answer.probabilities, answer.log_probabilities.exp())
    torch.manual_seed(0)
    assert model.generate(prompt, max_new_tokens=6, **options).tokens.ids == answer.tokens.ids


def test_answers_without_scores_have_none(model: probe.Probe, prompt: probe.Encoding) -> None:
    answer = model.generate(prompt, max_new_tokens=2)
    assert (answer.log_probabilities, answer.probabilities) == (None, None)


def test_given_words_have_no_scores(model: probe.Probe, prompt: probe.Encoding) -> None:
    begun = model.generate(prompt, begin="yes, it contains", scores=True, max_new_tokens=3)
    assert len(begun.tokens.span("answer")) == 3 + 4
    assert largest(begun.log_probabilities, forced(model, begun, 3)) < 5e-5
    longer = model.generate(begun, scores=True, max_new_tokens=2)
    assert largest(longer.log_probabilities, forced(model, longer, 2)) < 5e-5


def test_the_token_that_ends_an_answer_has_a_score(model: probe.Probe, prompt: probe.Encoding) -> None:
    best = int(model.next_logits(prompt).argmax())
    answer = model.generate(prompt, scores=True, max_new_tokens=6, eos_token_id=best)
    assert answer.tokens.ids[len(prompt.tokens) :] == (best,)
    assert largest(answer.log_probabilities, forced(model, answer, 1)) < 5e-5
    ended = prompt.with_answer_ids((5613, 2))
    again = model.generate(ended, scores=True)
    assert (again.tokens.ids, again.log_probabilities.shape) == (ended.tokens.ids, (0,))  # type: ignore[union-attr]
    assert model.generate(again, scores=True) is again
    assert model.generate(ended, num_return_sequences=2, do_sample=True) == [ended, ended]


def test_samples_are_cut_where_each_ends(model: probe.Probe, prompt: probe.Encoding) -> None:
    ends = list(range(3, 32000, 4))  # every fourth token ends an answer, so that samples end at different steps
    torch.manual_seed(0)
    answers = model.generate(
        prompt, num_return_sequences=5, do_sample=True, temperature=5.0, scores=True, max_new_tokens=9, eos_token_id=ends
    )
    added = [answer.tokens.ids[len(prompt.tokens) :] for answer in answers]
    assert len({len(ids) for ids in added}) > 1
    for ids, answer in zip(added, answers, strict=True):
        assert not set(ids[:-1]) & set(ends)
        assert len(ids) == 9 or ids[-1] in ends
        assert largest(answer.log_probabilities, forced(model, answer, len(ids))) < 5e-5
        assert answer.inputs["pixel_values"].shape == prompt.inputs["pixel_values"].shape


def test_a_sample_that_another_rule_ended_loses_its_padding(model: probe.Probe, prompt: probe.Encoding) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
    stopped = model.generate(prompt, num_return_sequences=4, stop_strings=["a"], tokenizer=zoo.tokenizer(), scores=True, **options)
    lengths = [len(answer.tokens.ids) - len(prompt.tokens) for answer in stopped]
    assert min(lengths) < max(lengths)
    assert [len(answer.log_probabilities) for answer in stopped if answer.log_probabilities is not None] == lengths
    assert all(answer.tokens.ids[-1] != 0 for answer in stopped)


def test_a_number_of_answers_gives_a_list(model: probe.Probe, prompt: probe.Encoding) -> None:
    alone = model.generate(prompt, max_new_tokens=3)
    assert model.generate(prompt, num_return_sequences=1, max_new_tokens=3) == [alone]
    beams = model.generate(prompt, num_return_sequences=2, num_beams=2, max_new_tokens=3)
    assert len({answer.tokens.ids for answer in beams}) == 2
    config = GenerationConfig(do_sample=True, max_new_tokens=3)
    assert len(model.generate(prompt, num_return_sequences=2, generation_config=config)) == 2


def test_a_scored_answer_can_be_pickled_copied_and_compared(model: probe.Probe, prompt: probe.Encoding) -> None:
    answer = model.generate(prompt, scores=True, max_new_tokens=3)
    assert answer == model.generate(prompt, scores=True, max_new_tokens=3)
    assert answer != model.generate(prompt, max_new_tokens=3)
    assert copy.deepcopy(answer) == answer
    assert hash(answer) == hash(copy.copy(answer))
    again = pickle.loads(pickle.dumps(answer))
    assert again.tokens == answer.tokens
    assert torch.equal(again.probabilities, answer.probabilities)
    assert answer.with_spans({"first": probe.Span((0,))}).log_probabilities is answer.log_probabilities
    assert answer.with_answer("No.").log_probabilities is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": True, "num_beams": 2}, r"scores=True with num_beams=2: .* read probe\.Logits\(at=answer\.tokens\.predicting"),
        ({"scores": True, "generation_config": GenerationConfig(guidance_scale=2.0)}, "scores=True with guidance_scale=2.0"),
        ({"num_return_sequences": 3}, r"greedy answers are all the same\. Pass do_sample=True, or num_beams=3"),
        ({"num_return_sequences": 3, "num_beams": 2}, "Pass do_sample=True, or num_beams=3"),
        ({"num_return_sequences": 0}, "num_return_sequences=0: how many answers to return, 1 or more"),
        ({"num_return_sequences": True}, "how many answers to return"),
        (
            {"generation_config": GenerationConfig(num_return_sequences=2, do_sample=True)},
            r"Pass num_return_sequences=2 to generate\(\) itself: it then returns a list of Answers",
        ),
    ],
)
def test_what_an_answer_cannot_follow_is_refused(model: probe.Probe, prompt: probe.Encoding, options: dict[str, Any], message: str) -> None:
    with pytest.raises(probe.ProbeError, match=message):
        model.generate(prompt, **options)


def test_no_hook_remains(model: probe.Probe, prompt: probe.Encoding) -> None:
    class Failing(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    model.generate(prompt, scores=True, max_new_tokens=2)  # transformers adds its own hooks, which record outputs, at the first forward
    before = [len(module._forward_hooks) for module in model.model.modules()]
    model.generate(prompt, scores=True, max_new_tokens=2)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.generate(prompt, scores=True, logits_processor=[Failing()])
    assert [len(module._forward_hooks) for module in model.model.modules()] == before


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "instructblip", "blip-2", "florence2", "mllama", "gemma3n", "llama4"])
def test_scores_are_of_the_logits_that_hugging_face_chose_from(name: str) -> None:
    hf, inputs = families.build(name)
    chosen = ChosenScores()
    options: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True, "repetition_penalty": 2.0, "max_new_tokens": 4}
    with torch.no_grad(), chosen.watching(hf):
        output = hf.generate(**inputs, **options, logits_processor=[chosen], pad_token_id=0, eos_token_id=None, do_sample=False)
    (scores,) = chosen.log_probabilities(output.sequences)
    rows = torch.stack(output.logits, dim=1)[0].float().log_softmax(-1)
    assert largest(scores, rows[range(4), output.sequences[0, -4:].tolist()]) < 1e-5
