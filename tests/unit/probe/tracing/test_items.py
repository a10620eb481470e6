"""`trace[read]`: exactly a read, or any part of what was read, whatever reads were merged."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import probe
from probe.errors import NotRead
from tests import zoo

PARTS = (probe.AttentionOutput, probe.MLPOutput, probe.HeadOutput, probe.Queries, probe.Keys, probe.Values)


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.fixture(scope="module")
def answer(model: probe.Probe, wide_image: Image.Image) -> probe.Answer:
    return model.encode(wide_image, "Is there a cat?").with_answer("yes, it contains a cat.")


@pytest.fixture(scope="module")
def trace(model: probe.Probe, answer: probe.Answer) -> probe.Trace:
    """Everything, read at every layer and position."""
    reads = [probe.Hidden("all"), *(part("all") for part in PARTS), probe.Attention("all", query=None), probe.Vision("all")]
    module = probe.Module("model.multi_modal_projector")
    return model.run(answer, [*reads, probe.Hidden(-1, normed=False), probe.Projected(), probe.Logits(), module])


@pytest.mark.parametrize("part", PARTS)
def test_fewer_layers_positions_and_heads_are_parts_of_what_was_read(
    trace: probe.Trace, answer: probe.Answer, part: type[probe.Read]
) -> None:
    whole = trace[part("all")]  # type: ignore[call-arg]
    at = [*answer.tokens.span("image").positions, len(answer.tokens) - 1]
    ours = trace[part([3, 1], at=("image", -1))]  # type: ignore[call-arg]
    assert ours.coords["layer"] == (3, 1)
    assert torch.equal(ours.data, whole.data[[3, 1]][..., at, :])
    if "head" in whole.dims:
        some = trace[part(-1, at="answer", heads=(2, 0))]  # type: ignore[call-arg]
        assert some.coords["head"] == (2, 0)
        positions = list(answer.tokens.span("answer").positions)
        assert torch.equal(some.data, whole.data[[3]][:, :, [2, 0]][..., positions, :])


def test_a_hidden_state_is_the_one_before_and_what_its_block_adds(trace: probe.Trace) -> None:
    for block in range(3):
        added = trace[probe.AttentionOutput(block)].data + trace[probe.MLPOutput(block)].data
        assert torch.allclose(trace[probe.Hidden(block)].data + added, trace[probe.Hidden(block + 1)].data, atol=1e-5)


def test_the_last_hidden_state_is_there_before_and_after_the_norm(model: probe.Probe, trace: probe.Trace) -> None:
    before, after = trace[probe.Hidden(-1, normed=False)], trace[probe.Hidden(-1)]
    assert (before.normed, after.normed) == ((False,), (True,))
    assert model.modules.final_norm is not None
    with torch.no_grad():
        assert torch.equal(model.model.get_submodule(model.modules.final_norm)(before.data), after.data)
    assert torch.equal(trace[probe.Hidden(2, normed=False)].data, trace[probe.Hidden(2)].data)


def test_heads_and_their_mean_come_from_attention_of_all_heads(trace: probe.Trace) -> None:
    every = trace[probe.Attention("all", query="answer", key="image")]
    some = trace[probe.Attention([2], query="answer", key="image", heads=(3, 1))]
    assert torch.equal(some.data, every.data[[2]][:, :, [3, 1]])
    mean = trace[probe.Attention(2, query="answer", key="image", heads="mean")]
    assert torch.allclose(mean.data, every.data[[2]].mean(2))
    assert mean.dims == ("layer", "batch", "query", "key")


def test_the_other_reads_are_what_their_methods_give(trace: probe.Trace) -> None:
    assert torch.equal(trace[probe.Logits(at="answer")].data, trace.logits("answer").data)
    assert torch.equal(trace[probe.Projected()].data, trace.projected().data)
    assert torch.equal(trace[probe.Vision([-2])].data[0], trace.vision(layer=-2).data)
    assert torch.equal(trace[probe.Module("model.multi_modal_projector")].data[0], trace.projected().data[0])


def test_maps_of_parts_are_folded_onto_the_image(trace: probe.Trace) -> None:
    assert trace[probe.MLPOutput(3, at="image")].grid().dims == ("layer", "batch", "row", "col", "feature")
    assert trace[probe.HeadOutput(3, at="image", heads=1)].grid().shape["head"] == 1
    assert trace[probe.Attention(3, query=-1, key="image")].grid().shape["row"] == 4


def test_a_sessions_traces_have_the_parts_that_a_run_has(model: probe.Probe, answer: probe.Answer, wide_image: Image.Image) -> None:
    reads = [part([1, 3], at=("image", "answer")) for part in PARTS]  # type: ignore[call-arg]
    alone = model.run(answer, reads)
    with model.open(wide_image, keep=[probe.MLPOutput([1, 3], at="image")]) as session:
        (shared,) = session.trace([answer], reads)
    for read in reads:
        assert float((shared[read].data - alone[read].data).abs().max()) < 1e-5  # the same sums in another order


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (probe.MLPOutput(3), "MLPOutput of layer 3 was not read. Layers read: 1, 2, at 'image'"),
        (probe.MLPOutput(1, at="answer"), "MLPOutput of layer 1 at 'answer' were not read. Read at: 'image'"),
        (probe.HeadOutput(1, at=-1, heads=0), "Head 0 of HeadOutput was not read. Heads read: 1, 3"),
        (probe.HeadOutput(1, at=-1), "All heads of HeadOutput were asked for; heads 1, 3 were read"),
        (probe.Keys(1), "No Keys states were read"),
        (probe.Attention(2, query=-1), "was not read. Attention reads: -1 to 'image'"),
        (probe.Attention(1, query=-1, key="image", heads=0), "was not read. Attention reads"),
        (probe.Module("model.vision_tower"), "Modules read: Module"),
        (probe.Vision(1), "No vision states were read"),
        (probe.VisionAttention(1), "No attention rows of the vision tower"),
    ],
)
def test_what_was_not_read_says_what_was(model: probe.Probe, answer: probe.Answer, read: probe.Read, message: str) -> None:
    reads = [
        probe.MLPOutput([1, 2], at="image"),
        probe.HeadOutput(1, at=-1, heads=(1, 3)),
        probe.Attention([1], query=-1, key="image", heads=(2, 3)),
        probe.Module("model.multi_modal_projector"),
    ]
    trace = model.run(answer, reads)
    with pytest.raises(NotRead) as refused:
        trace[read]
    assert message in str(refused.value)


def test_a_state_before_the_final_norm_is_no_hidden_state_and_says_where_it_is(model: probe.Probe, answer: probe.Answer) -> None:
    trace = model.run(answer, probe.Hidden("all", normed=False))
    assert trace.hidden(layers=[0, 3]).coords["layer"] == (0, 3)
    for ask in (lambda: trace.hidden(), lambda: trace.hidden("image"), lambda: trace.hidden(layer=-1)):
        with pytest.raises(NotRead, match=r"Hidden state 4 was read before the final norm.*take it as trace\[Hidden\(layers=\(4,\), at="):
            ask()
    both = model.run(answer, [probe.Hidden("all", normed=False), probe.Hidden([1, 4], at="image")])
    assert both.hidden().coords["layer"] == (1, 4)
    assert model.run(answer, probe.Hidden([1, 2], normed=False)).hidden().coords["layer"] == (1, 2)
