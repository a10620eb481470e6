"""Work on several images in step: which calls run together, and an image that fails."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import fseg
import probe
from fseg.calls import Steps, ask, complete, complete_together, trace
from probe.errors import InvalidRead, NotFinite
from tests import zoo

QUESTIONS = ["Is there a cat?", "And a dog?"]
READS = [probe.Hidden([2], at="answer")]


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    hf.generation_config.eos_token_id = None  # every answer is as long as it may be
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is asked of several sessions at once: the function, and how many questions or answers it gets."""
    made: list[tuple[str, int]] = []

    def counted(name: str) -> Any:
        real = getattr(probe, name)
        return lambda given, *more, **options: made.append((name, len(given))) or real(given, *more, **options)

    for name in ("ask_together", "trace_together"):
        monkeypatch.setattr(probe, name, counted(name))
    return made


def work(model: probe.Probe, image: Image.Image, count: int, length: int = 3) -> Steps[list[tuple[probe.Answer, probe.Trace]]]:
    with model.open(image) as session:
        answers = yield from ask(session, QUESTIONS[:count], max_new_tokens=length)
        traces = yield from trace(session, answers, READS)
    return list(zip(answers, traces, strict=True))


def test_calls_of_one_kind_run_together(model: probe.Probe, wide_image: Image.Image, calls: list[tuple[str, int]]) -> None:
    images = [wide_image, wide_image.rotate(90), wide_image.rotate(180)]
    together = complete_together([work(model, image, count) for image, count in zip(images, (2, 1, 2), strict=True)])
    assert calls == [("ask_together", 5), ("trace_together", 5)]
    for image, count, found in zip(images, (2, 1, 2), together, strict=True):
        alone = complete(work(model, image, count))
        assert isinstance(found, list)
        for (answer, one), (expected, other) in zip(found, alone, strict=True):
            assert answer.tokens.ids == expected.tokens.ids
            torch.testing.assert_close(one.hidden().data, other.hidden().data, rtol=0, atol=1e-5)
    assert len(calls) == 2  # one image asks its session


def test_traces_wait_for_answers_of_another_kind(model: probe.Probe, wide_image: Image.Image, calls: list[tuple[str, int]]) -> None:
    lengths = [3, 5, 3]
    found = complete_together([work(model, wide_image, 1, length) for length in lengths])
    assert calls == [("ask_together", 2), ("trace_together", 3)]
    assert [len(one[0][0].tokens) - one[0][0].prompt_length for one in found if isinstance(one, list)] == lengths


def test_an_image_that_fails_fails_alone(model: probe.Probe, wide_image: Image.Image) -> None:
    def refusing() -> Steps[list[tuple[probe.Answer, probe.Trace]]]:
        with model.open(wide_image) as session:
            yield from ask(session, QUESTIONS, max_new_tokens=-1)
        return []

    found = complete_together([work(model, wide_image, 2), refusing(), work(model, wide_image, 1)])
    assert [type(one) for one in found] == [list, InvalidRead, list]
    with pytest.raises(InvalidRead, match="max_new_tokens=-1"):
        complete(refusing())


@pytest.mark.slow
def test_an_image_whose_states_are_not_finite_does_not_stop_the_others() -> None:
    segmenter = fseg.Segmenter()
    scenes = [fseg.glyphs.scene(number).image for number in (1, 2, 3)]
    prepared = segmenter.model.prepare(scenes[1])
    assert prepared.inputs is not None
    broken = replace(prepared, inputs={name: torch.full_like(value, torch.nan) for name, value in prepared.inputs.items()})
    results = list(segmenter.map([scenes[0], broken, scenes[2]], ["cat", "star"], batch=3))
    assert [type(one) for one in results] == [fseg.Result, fseg.Failure, fseg.Result]
    assert isinstance(results[1].error, NotFinite)
    assert [results[0], results[2]] == [segmenter(scene, ["cat", "star"]) for scene in (scenes[0], scenes[2])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "world"), [("glyphs", fseg.glyphs), ("stickers-dynamic", fseg.stickers)], ids=["glyphs", "stickers of several sizes"]
)
def test_scenes_together_have_the_results_of_each(recipe: str, world: ModuleType) -> None:
    segmenter, classes = fseg.Segmenter(recipe), list(world.CLASSES)
    scenes = [world.scene(number).image for number in range(5)]
    alone, together = (list(segmenter.map(scenes, classes, batch=batch)) for batch in (1, 4))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, fseg.Result)
        assert isinstance(other, fseg.Result)
        assert (one.labels == other.labels).all()
        for mine, theirs in zip(one.evidence.values(), other.evidence.values(), strict=True):
            assert (mine.answer, mine.present, mine.points, mine.box) == (theirs.answer, theirs.present, theirs.points, theirs.box)
            for name, values in mine.maps().items():
                torch.testing.assert_close(theirs.maps()[name], values, rtol=0, atol=1e-6)
