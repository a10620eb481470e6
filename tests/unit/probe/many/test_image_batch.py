"""ImageBatch on a tiny LLaVA: how often the tower runs, memory that runs out, images that are at fault, batches that change their rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import probe
from probe.errors import InvalidRead, NotFinite

QUESTIONS = ["Is there a cat?", "What is to the left of the large red dog?"]
READS = (probe.Hidden("all", at=("image", "answer")), probe.Vision([-1]))


@pytest.fixture
def images(model: probe.Probe, wide_image: Image.Image) -> list[probe.PreparedImages]:
    return [model.prepare(wide_image.rotate(72 * number)) for number in range(5)]


@pytest.fixture
def passes(model: probe.Probe) -> list[int]:
    """How many images each run of the tower had."""
    seen: list[int] = []
    tower = model.model.get_submodule(model.modules.vision)
    tower.register_forward_hook(lambda _, __, output: seen.append(len(output.last_hidden_state)))
    return seen


def asked(
    model: probe.Probe, image: probe.PreparedImages, together: probe.ImageBatch | None, keep: Any = READS
) -> tuple[list[probe.Answer], list[probe.Trace]]:
    with model.open(image, keep=keep, together=together) as session:
        answers = session.ask(QUESTIONS, max_new_tokens=3)
        return answers, session.trace(answers, READS)


def assert_as_alone(model: probe.Probe, image: probe.PreparedImages, found: tuple[list[probe.Answer], list[probe.Trace]]) -> None:
    answers, traces = asked(model, image, None)
    assert [answer.tokens for answer in found[0]] == [answer.tokens for answer in answers]
    for ours, theirs in zip(found[1], traces, strict=True):
        for span in ("image", "answer"):
            assert float((ours.hidden(span).data - theirs.hidden(span).data).abs().max()) <= 1e-5  # float32, products of other shapes
        assert float((ours.vision(layer=-1).data - theirs.vision(layer=-1).data).abs().max()) <= 1e-5


def test_images_are_read_in_one_pass_that_is_compared_once_and_are_as_alone(
    model: probe.Probe, images: list[probe.PreparedImages], passes: list[int]
) -> None:
    batch = probe.ImageBatch(images)
    found = [asked(model, image, batch) for image in reversed(images)]
    assert passes == [5, 1, 1]
    for image, one in zip(reversed(images), found, strict=True):
        assert_as_alone(model, image, one)
    assert len({tuple(trace.hidden("image").data.flatten().tolist()) for _, traces in found for trace in traces}) == 5
    passes.clear()
    again = probe.ImageBatch(images[:3])
    assert [asked(model, image, again)[0] for image in images[:3]] == [answers for answers, _ in reversed(found[2:])]
    assert passes == [3]


def test_sessions_that_are_opened_otherwise_share_no_prefix(
    model: probe.Probe, images: list[probe.PreparedImages], passes: list[int]
) -> None:
    batch = probe.ImageBatch(images[:2])
    asked(model, images[0], batch)
    passes.clear()
    assert_as_alone(model, images[1], asked(model, images[1], batch, keep=()))
    assert passes[0] == 2
    passes.clear()
    assert_as_alone(model, images[1], asked(model, images[1], batch))
    assert passes == [1]  # the assertion's own
    passes.clear()
    assert_as_alone(model, images[1], asked(model, images[1], batch))
    assert passes == [1, 1]  # a prefix is given once


def test_memory_that_runs_out_halves_the_pass(model: probe.Probe, images: list[probe.PreparedImages], passes: list[int]) -> None:
    def short(_: Any, given: Any, options: Any) -> None:
        if len(options.get("pixel_values", given[0] if given else ())) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    model.model.get_submodule(model.modules.vision).register_forward_pre_hook(short, with_kwargs=True)
    batch = probe.ImageBatch(images)
    found = [asked(model, image, batch) for image in images]
    assert passes == [2, 1, 1, 2, 1]  # the first two are compared with each alone
    for image, one in zip(images, found, strict=True):
        assert_as_alone(model, image, one)


def test_an_image_that_is_at_fault_says_so_in_its_own_session(model: probe.Probe, images: list[probe.PreparedImages]) -> None:
    inputs = images[1].inputs
    assert inputs is not None
    images[1] = replace(images[1], inputs={name: torch.full_like(value, torch.nan) for name, value in inputs.items()})
    images[2] = model.prepare([images[2].images[0]] * 2)  # two images in one prompt: it cannot be encoded as the others are
    batch = probe.ImageBatch(images[:4])
    first = asked(model, images[0], batch)
    with pytest.raises(NotFinite, match="It begins in state 0 of the vision tower"):
        asked(model, images[1], batch)
    for number, found in ((0, first), (2, asked(model, images[2], batch)), (3, asked(model, images[3], batch))):
        assert_as_alone(model, images[number], found)


def test_a_model_that_other_rows_change_is_found_out(model: probe.Probe, images: list[probe.PreparedImages], passes: list[int]) -> None:
    """A block that adds to every token how many other rows there are."""
    block = model.model.get_submodule(model.modules.layers[1])
    block.register_forward_pre_hook(lambda _, given: (given[0] + float(len(given[0]) - 1), *given[1:]))
    batch = probe.ImageBatch(images[:3])
    with pytest.warns(UserWarning, match=r"open\(\) runs inputs one by one, .*: padding or other rows"):
        found = [asked(model, image, batch) for image in images[:3]]
    assert passes == [3, 1, 1, 1, 1]  # together, the first one for comparison, then each
    for image, one in zip(images, found, strict=False):
        assert_as_alone(model, image, one)


def test_what_is_not_prepared_is_refused(wide_image: Image.Image) -> None:
    with pytest.raises(InvalidRead, match=r"ImageBatch\(\) takes what prepare\(\) returned, got a Image\."):
        probe.ImageBatch([wide_image])  # type: ignore[list-item]
