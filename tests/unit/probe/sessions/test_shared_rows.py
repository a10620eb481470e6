"""Attention rows of packed answers: one product for all sequences of a row, so that the keys are read once."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import probe
from probe.tracing.attention.call import AttentionCall
from tests import zoo

QUESTIONS = ["Is there a cat?", "And a dog?", "What is on the table beside the chair?"]
TEXTS = ["yes, it contains a cat.", "No.", "yes, a dog."]
TOLERANCE = 1e-6  # float32, max abs: rows of a softmax, whose scores are the same sums in another order
READS = [
    probe.Attention(layers="all", query="answer", key="image"),
    probe.Attention(layers=[1], query="prompt-end", key=None, heads="mean"),
]


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.mark.parametrize(("most", "products"), [(1 << 24, 1), (1, 3)])
def test_packed_sequences_share_a_product(
    model: probe.Probe, wide_image: Image.Image, most: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model.open(wide_image, policy="packed") as session:
        answers = session.answer(QUESTIONS, TEXTS)
        answers = [one.with_spans({"prompt-end": probe.Span((one.prompt_length - 1,))}) for one in answers]
        alone = [model.run(one, READS) for one in answers]
        rows, calls = AttentionCall.rows, []
        monkeypatch.setattr(AttentionCall, "rows", lambda *given: calls.append(1) or rows(*given))
        monkeypatch.setattr("probe.tracing.capturing.capture.WEIGHTS_AT_ONCE", most)
        traces = session.trace(answers, READS)
    assert len(calls) == products * (len(model.modules.layers) + 1)
    for trace, expected in zip(traces, alone, strict=True):
        for query in ("answer", "prompt-end"):
            ours, theirs = (one.attention(query=query, layers=[1]).data for one in (trace, expected))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
