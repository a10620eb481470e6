"""run_many and generate_many on a tiny LLaVA: memory that runs out, inputs that are at fault, batches that change their rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image

import probe
from probe import edit
from probe.errors import InvalidLayer, InvalidRead, NestedTrace, NotFinite, ProbeError, ProcessorNeeded, SpanNotFound
from probe.many import generating
from probe.tracing.engine import Engine
from tests import families

HIDDEN = probe.Hidden("all")
QUESTIONS = ["Is there a cat?", "What is to the left of the large red dog?", "Why?", "Is it so?", "What is on the table?", "Where?"]


@pytest.fixture
def encodings(model: probe.Probe, wide_image: Image.Image) -> list[probe.Encoding]:
    return [model.encode(wide_image.rotate(90 * number, expand=True), text) for number, text in enumerate(QUESTIONS)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward had."""
    seen: list[int] = []
    original = Engine.run

    def counted(self: Engine, forward: Any, inputs: Any, *given: Any, **options: Any) -> Any:
        seen.append(len(inputs["input_ids"]))
        return original(self, forward, inputs, *given, **options)

    monkeypatch.setattr(Engine, "run", counted)
    return seen


def largest(ours: probe.Trace, theirs: probe.Trace) -> float:
    pairs = [(ours.captured.states[key][0], rows[0]) for key, rows in theirs.captured.states.items()]
    return max(float((a - b).abs().max()) for a, b in pairs)


def assert_as_alone(model: probe.Probe, encodings: list[Any], traces: list[probe.Trace]) -> None:
    alone = [model.run(encoding, HIDDEN) for encoding in encodings]
    assert [trace.tokens for trace in traces] == [trace.tokens for trace in alone]
    assert max(largest(a, b) for a, b in zip(traces, alone, strict=True)) <= 1e-5  # float32, products of other shapes


def test_a_batch_is_compared_once_with_its_most_padded_and_its_last_input(
    model: probe.Probe, encodings: list[probe.Encoding], passes: list[int]
) -> None:
    traces = list(model.run_many(encodings, HIDDEN))
    assert passes == [6, 1, 1]
    assert_as_alone(model, encodings, traces)
    passes.clear()
    assert len(list(model.run_many(encodings, HIDDEN))) == 6
    assert passes == [6]


def test_memory_that_runs_out_halves_the_batch(
    model: probe.Probe, encodings: list[probe.Encoding], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Engine.run

    def short(self: Engine, forward: Any, inputs: Any, *given: Any, **options: Any) -> Any:
        if len(inputs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return counted(self, forward, inputs, *given, **options)

    monkeypatch.setattr(Engine, "run", short)
    traces = list(model.run_many(encodings, HIDDEN))
    assert passes == [3, 1, 3]  # the first three are compared with the last of them, which is the shortest, too
    assert_as_alone(model, encodings, traces)


def test_an_input_that_does_not_fit_by_itself_says_so(
    model: probe.Probe, encodings: list[probe.Encoding], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Engine, "run", short)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"Item 0 of run_many\(\), of \d+ tokens, does not fit into memory by itself.*Load the model in a smaller",
    ):
        next(model.run_many(encodings, HIDDEN))


def test_inputs_with_and_without_an_image_take_turns(model: probe.Probe, encodings: list[probe.Encoding], passes: list[int]) -> None:
    words = [model.encode(None, text) for text in QUESTIONS]
    mixed = [*encodings[:2], *words[:3], encodings[3]]
    traces = list(model.run_many(mixed, HIDDEN))
    assert [rows for rows in passes if rows > 1] == [2, 3]
    assert_as_alone(model, mixed, traces)


def test_an_input_without_the_span_that_is_read_is_named(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    traces = model.run_many([encodings[0], model.encode(None, "Why?"), encodings[1]], probe.Hidden(1, at="image"))
    assert next(traces).tokens == (encodings[0].tokens,)
    with pytest.raises(SpanNotFound, match=r"^Item 1 of run_many\(\): No span 'image'"):
        next(traces)
    assert [trace.tokens for trace in traces] == [(encodings[1].tokens,)]


def test_something_that_is_no_encoding_is_named(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    wrong: Any = [encodings[0], "a cat"]
    with pytest.raises(InvalidRead, match=r"^Item 1 of run_many\(\): run\(\) takes one encoding, got a str"):
        list(model.run_many(wrong, HIDDEN))
    with pytest.raises(InvalidRead, match=r"^Item 1 of generate_many\(\): generate_many\(\) takes what encode\(\) returned, got a str"):
        list(model.generate_many(wrong, max_new_tokens=1))


def test_a_layer_that_no_input_has_is_refused_before_any_is_taken(model: probe.Probe) -> None:
    def untouched() -> Iterator[probe.Encoding]:
        raise AssertionError("an input was taken")
        yield

    with pytest.raises(InvalidLayer, match="Layer 99"):
        model.run_many(untouched(), probe.Hidden(99))
    with pytest.raises(ProbeError, match="output_scores"):
        model.generate_many(untouched(), output_scores=True)


def test_plain_encodings_are_taken_and_those_of_several_rows_run_alone(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    plain = [dict(encoding.inputs) for encoding in encodings[:2]]
    bare = probe.load(model=model.model)
    two = {name: torch.cat([value, value]) for name, value in plain[0].items()}
    with pytest.warns(UserWarning, match="an input has several rows, or padding"):
        traces = list(bare.run_many([*plain, two], HIDDEN))
    assert_as_alone(bare, [*plain, two], traces)
    assert len(traces[2].tokens) == 2
    with pytest.raises(ProcessorNeeded):
        bare.generate_many([])


def test_not_a_number_is_said_of_the_input_that_has_it(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    plain = [dict(encoding.inputs) for encoding in encodings[:3]]
    plain[1]["pixel_values"] = torch.full_like(plain[1]["pixel_values"], torch.nan)
    traces = model.run_many(plain, HIDDEN)
    first = next(traces)
    with pytest.raises(NotFinite, match=r"^Item 1 of run_many\(\): .*It begins in state 0 of the vision tower"):
        next(traces)
    assert_as_alone(model, [plain[0], plain[2]], [first, *traces])


@pytest.mark.parametrize("change", ["padding", "rows"])
def test_a_model_that_a_batch_changes_is_found_out(
    model: probe.Probe, encodings: list[probe.Encoding], passes: list[int], change: str
) -> None:
    """A block that adds to every token what padding adds up to, or how many rows there are."""

    def disturb(_: Any, given: Any) -> Any:
        states = given[0]
        more = float(len(states) - 1) if change == "rows" else float(states.shape[1] - min(lengths))
        return (states + more * (len(states) > 1), *given[1:])

    lengths = [len(encoding.tokens) for encoding in encodings]
    model.model.get_submodule(model.modules.layers[1]).register_forward_pre_hook(disturb)
    same = [model.encode(Image.new("RGB", (30, 20), color), "Why?") for color in ("red", "blue")]
    with pytest.warns(
        UserWarning, match=r"run_many\(\) runs inputs one by one, or only those of equal shapes together: padding or other rows"
    ):
        traces = list(model.run_many([*encodings, *same], HIDDEN))
    assert_as_alone(model, [*encodings, *same], traces)
    passes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(model.run_many(encodings[:3], HIDDEN))
    assert passes == [1, 1, 1]  # known from before


@pytest.mark.parametrize(
    ("reads", "edits", "reason"),
    [
        (probe.Module("model.multi_modal_projector"), (), "it is not known which part is whose"),
        (probe.VisionAttention([0], query="class"), (), "the vision tower's attention is read"),
        (HIDDEN, edit.scale(probe.Vision([1]), 2.0), "edits of the vision tower"),
    ],
    ids=["module", "vision attention", "vision edit"],
)
def test_what_is_not_of_one_row_runs_alone_and_says_so(
    model: probe.Probe, encodings: list[probe.Encoding], passes: list[int], reads: Any, edits: Any, reason: str
) -> None:
    with pytest.warns(UserWarning, match=reason) as said:
        traces = list(model.run_many(encodings[:3], reads, edits=edits))
    assert len(said) == 1
    assert passes == [1, 1, 1]
    assert traces == [model.run(encoding, reads, edits=edits) for encoding in encodings[:3]]


def test_edits_with_values_fit_each_input_by_itself(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    width = len(encodings[0].tokens.span("question"))
    value = torch.randn(width, 48, generator=torch.Generator().manual_seed(0))
    value = value[:, : model.model.config.text_config.hidden_size]
    edits = edit.replace(probe.Hidden(1, at="question"), value)
    traces = model.run_many(encodings[:2], HIDDEN, edits=edits)
    assert largest(next(traces), model.run(encodings[0], HIDDEN, edits=edits)) <= 1e-5
    with pytest.raises(ProbeError, match=r"^Item 1 of run_many\(\): .*long along token"):
        next(traces)


def test_a_run_inside_a_run_is_refused(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    def nested(values: torch.Tensor) -> torch.Tensor:
        next(model.run_many(encodings[1:], HIDDEN))
        return values

    with pytest.raises(NestedTrace, match=r"Item 0 of run_many\(\): .*A run was started inside a run"):
        model.run(encodings[0], HIDDEN, edits=edit.apply(probe.Hidden(1, at=-1), nested))


def test_encodings_may_be_answers_that_are_generated_meanwhile(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    answers = model.generate_many(encodings, max_new_tokens=3)
    traces = list(model.run_many(answers, probe.Logits(at="answer")))
    assert [trace.tokens[0].text("answer") for trace in traces] == [
        model.generate(encoding, max_new_tokens=3).text for encoding in encodings
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"begin": "yes, it"},
        {"scores": True},
        {"repetition_penalty": 5.0},
        {"num_beams": 2},
        {"edits": edit.scale(probe.Hidden(1, at=-1), 2.0)},
    ],
    ids=["greedy", "begin", "scores", "penalty", "beams", "edits"],
)
@pytest.mark.filterwarnings("ignore:generate_many")
def test_answers_are_those_of_each_prompt_alone(
    model: probe.Probe, encodings: list[probe.Encoding], options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [model.generate(encoding, max_new_tokens=5, **options) for encoding in encodings]
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", alone[0].tokens.ids[-3])
    alone = [model.generate(encoding, max_new_tokens=5, **options) for encoding in encodings]
    if "num_beams" not in options:
        assert len({len(answer.tokens) - answer.prompt_length for answer in alone}) > 1  # the end comes at different times
    together = list(model.generate_many(encodings, max_new_tokens=5, **options))
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.tokens == theirs.tokens
        assert all(torch.equal(ours.inputs[name], value) for name, value in theirs.inputs.items())
        assert (ours.log_probabilities is None) == (theirs.log_probabilities is None)
        if ours.log_probabilities is not None and theirs.log_probabilities is not None:
            torch.testing.assert_close(ours.log_probabilities, theirs.log_probabilities, rtol=0, atol=5e-5)


def test_which_options_share_padded_batches(model: probe.Probe, encodings: list[probe.Encoding], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original: Callable[..., Any] = generating.new_tokens

    def counted(runtime: Any, inputs: Any, *given: Any, **options: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return original(runtime, inputs, *given, **options)

    monkeypatch.setattr(generating, "new_tokens", counted)
    list(model.generate_many(encodings, max_new_tokens=2))
    assert rows == [6]
    rows.clear()
    # What counts the prompt's tokens would count padding, too.
    list(model.generate_many([*encodings[:1], *encodings[:2]], max_new_tokens=2, repetition_penalty=2.0))
    assert rows == [2]
    rows.clear()
    with pytest.warns(UserWarning, match=r"generate_many\(\).*edits of a generation"):
        list(model.generate_many(encodings, max_new_tokens=2, edits=edit.zero(probe.Hidden(1, at=-1))))
    assert rows == []


def test_answers_that_have_ended_are_left_as_they_are_and_others_go_on(
    model: probe.Probe, encodings: list[probe.Encoding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", None)
    ended = encodings[0].with_answer_ids((5, 2))
    begun = encodings[1].with_answer("It is")
    first, second = model.generate_many([ended, begun], max_new_tokens=2)
    assert first is ended
    assert second.tokens == model.generate(begun, max_new_tokens=2).tokens


def test_a_last_token_that_is_the_padding_is_kept(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    alone = [model.generate(encoding, max_new_tokens=4, eos_token_id=None) for encoding in encodings]
    last = alone[0].tokens.ids[-1]
    together = model.generate_many(encodings, max_new_tokens=4, eos_token_id=None, pad_token_id=last)
    assert [answer.tokens.ids for answer in together] == [answer.tokens.ids for answer in alone]


def test_inspect_says_what_a_family_takes_together() -> None:
    hf, _ = families.build("llava")
    assert probe.load(model=hf).inspect()["batches"] == "padded"
    hf, _ = families.build("llama4")
    assert (
        "prompts of equal length alone are answered together (its forward places a token by how many"
        in probe.load(model=hf).inspect()["batches"]
    )
    hf, _ = families.build("glm5_next")
    assert probe.load(model=hf).inspect()["batches"].startswith("none: many inputs run one by one (which keys its attention chooses")
