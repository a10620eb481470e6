"""Many images through the embedded model: what is read and answered is what each image gives alone, and few are held at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch

import probe
from fseg.glyphs import CLASSES, llava_folder, scene
from probe.batcher import AdaptiveBatcher

READS = [
    probe.Hidden("all", at=("image", "question")),
    probe.Attention("all", query=-1, key="image", heads="mean"),
    probe.Vision([-2]),
    probe.Logits(at=-1),
]
TOLERANCE = 1e-5  # float32, over the largest value where that is above 1: the same sums in products of other shapes
COUNT = 9


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    return probe.load(llava_folder(), dtype="float32", resize="stretch", tiles=False)


def question(number: int) -> str:
    name = CLASSES[number % len(CLASSES)]
    return (f"Is there a {name}?", f"Is there a {name} in the image? If yes, describe it.", name)[number % 3]


@pytest.fixture(scope="module")
def encodings(model: probe.Probe) -> list[probe.Encoding]:
    return [model.encode(scene(2000 + number).image, question(number)) for number in range(COUNT)]


def test_scenes_read_together_are_those_read_alone(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    seen = 0
    for encoding, trace in zip(encodings, model.run_many(iter(encodings), READS), strict=True):
        alone = model.run(encoding, READS)
        pairs = [(trace.hidden(at), alone.hidden(at)) for at in ("image", "question")]
        pairs += [(trace.attention(), alone.attention()), (trace.vision(), alone.vision()), (trace.logits(), alone.logits())]
        for ours, theirs in pairs:
            assert (ours.dims, ours.coords, ours.layout) == (theirs.dims, theirs.coords, theirs.layout)
            assert float((ours.data - theirs.data).abs().max()) <= TOLERANCE * max(1.0, float(theirs.data.abs().max()))
        assert trace.hidden("image", layer=4).grid().data.shape == (1, 14, 14, 128)
        seen += 1
    assert seen == COUNT


def test_scenes_asked_together_get_the_answers_that_each_gets_alone(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    together = list(model.generate_many(encodings, max_new_tokens=12))
    alone = [model.generate(encoding, max_new_tokens=12) for encoding in encodings]
    assert together == alone
    assert len({answer.text for answer in together}) > 2
    assert {"end" in answer.tokens.spans for answer in together} == {True, False}  # some end before the others


def test_few_inputs_are_held_at_a_time(model: probe.Probe, encodings: list[probe.Encoding], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[probe.Encoding]] = []

    def copied() -> Iterator[probe.Encoding]:
        for encoding in encodings:
            copy = encoding.with_spans({})
            held.append(weakref.ref(copy))
            yield copy
            del copy

    batcher = AdaptiveBatcher(2 * max(len(encoding.tokens) for encoding in encodings))
    monkeypatch.setattr(model.runtime, "batcher", lambda *_: batcher)
    most = 0
    for _ in model.run_many(copied(), probe.Hidden([1], at="image")):
        most = max(most, sum(one() is not None for one in held))
    assert len(held) == COUNT
    assert most <= 2 * 2 + 1


@pytest.mark.slow  # half precision on a processor, and another model
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_batches_are_trusted_too(dtype: str, recwarn: pytest.WarningsRecorder) -> None:
    half = probe.load(llava_folder(), dtype=dtype, resize="stretch", tiles=False)
    given = [half.encode(scene(2000 + number).image, question(number)) for number in range(4)]
    together = list(half.run_many(given, READS[0]))
    assert len(list(half.generate_many(given, max_new_tokens=4))) == 4
    assert [one for one in recwarn if "_many()" in str(one.message)] == []
    # Rounding at every layer, in sums of another order: a share of the largest state that no disturbed row keeps to.
    share = torch.finfo(getattr(torch, dtype)).eps ** 0.5
    for encoding, trace in zip(given, together, strict=True):
        expected = half.run(encoding, READS[0]).hidden("image").data.float()
        assert float((trace.hidden("image").data.float() - expected).abs().max()) <= share * float(expected.abs().max())
