"""Many edited runs of one input: each as a run of its own gives it, at the price of what lies behind its first edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import probe
from probe.sessions.variants.clean_run import CleanRun
from probe.sessions.variants.edit_starts import Start, start_of
from probe.sessions.variants.running import _groups
from tests import zoo

edit = probe.edit

TOLERANCE = 1e-5  # float32, max abs over states of size 1 to 10: the same sums in batches of another shape
LAYERS = 4


@pytest.fixture(scope="module", params=["llava", pytest.param("llava_next", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> probe.Probe:
    built, processor = {"llava": zoo.llava, "llava_next": zoo.llava_next}[request.param](layers=LAYERS)
    return probe.load(model=built, processor=processor)


@pytest.fixture(scope="module")
def llava() -> probe.Probe:
    built, processor = zoo.llava(layers=LAYERS)
    return probe.load(model=built, processor=processor)


@pytest.fixture(scope="module")
def encoding(model: probe.Probe, wide_image: Image.Image) -> probe.Encoding:
    return model.encode(wide_image, "Is there a cat in it?")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Start, int]]:
    """The start and the size of each shared pass."""
    seen: list[tuple[Start, int]] = []
    original = CleanRun.forward

    def noted(self: CleanRun, start: Start, edits: Any, plan: Any) -> Any:
        seen.append((start, len(edits)))
        return original(self, start, edits, plan)

    monkeypatch.setattr(CleanRun, "forward", noted)
    return seen


def _hidden() -> Iterator[list[edit.Edit]]:
    for layer in range(LAYERS + 1):
        for at in ("image", "question", -1, (-6, -2), 0, None, 20):
            yield [edit.scale(probe.Hidden(layer, at=at), -1.5)]
    yield [edit.zero(probe.Hidden(LAYERS, at=-1, normed=False))]
    yield [edit.add(probe.Hidden(range(1, 4), at="question"), torch.linspace(-1, 1, 48))]


def _parts() -> Iterator[list[edit.Edit]]:
    for block in range(LAYERS):
        yield [edit.zero(probe.MLPOutput(block, at=(-5, "image")))]
        yield [edit.add(probe.AttentionOutput(block, at=-3), torch.ones(48), scale=0.5)]
        yield [edit.replace(probe.HeadOutput(block, at=(-4, -3), heads=(0, 2)), torch.ones(2, 12))]
        yield [edit.scale(probe.Queries(block, at=-2, heads=1), 3.0)]
        yield [edit.zero(probe.Keys(block, at=-7, heads=0))]
        yield [edit.apply(probe.Values(block, at="image"), lambda values: values.flip(-1))]
    yield [edit.zero(probe.Projected())]
    yield [edit.zero(probe.Vision(-2))]
    yield [edit.zero(probe.Module("model.language_model.layers.2.mlp"))]


def _attention() -> Iterator[list[edit.Edit]]:
    for block in range(LAYERS):
        yield [edit.block(probe.Attention(block, query=-1, key="image"))]
        yield [edit.block(probe.Attention(block, query="question", key="image", heads=(0, 3)))]
        yield [edit.scale(probe.Attention(block, query=(-3, -1), key="image"), 0.25)]
    yield [edit.block(probe.Attention("all", query="question", key="image"))]


def _several() -> Iterator[list[edit.Edit]]:
    yield []
    yield [edit.zero(probe.MLPOutput(1, at=-3)), edit.scale(probe.Hidden(3, at=-5), 2.0), edit.add(probe.Hidden(3, at=-5), torch.ones(48))]
    yield [edit.scale(probe.Hidden(3, at=-5), 2.0), edit.add(probe.Hidden(3, at=-5), torch.ones(48))]
    yield [edit.add(probe.Hidden(3, at=-5), torch.ones(48)), edit.scale(probe.Hidden(3, at=-5), 2.0)]
    yield [edit.block(probe.Attention(2, query=-1, key="image")), edit.zero(probe.HeadOutput(1, at="image", heads=1))]


READS = [
    *(probe.Hidden("all"), probe.Hidden(-1, at="question", normed=False), probe.Hidden([1, 3], at=("image", -1))),
    *(
        probe.MLPOutput("all", at=("image", -1)),
        probe.AttentionOutput(2, at="question"),
        probe.HeadOutput([1, 2], at=(-1, 3), heads=(0, 1)),
    ),
    *(probe.Queries(1, at=-2), probe.Keys("all", at=("image", -1)), probe.Values(3)),
    *(probe.Attention("all", query=("image", -1)), probe.Attention(2, query=-2, key="image", heads="mean")),
    *(probe.Vision(-1), probe.Logits(at=(-1, -6)), probe.Logits(at="question")),
]


@pytest.mark.parametrize("variants", [_hidden, _parts, _attention, _several])
def test_a_variant_is_what_a_run_with_its_edits_is(
    model: probe.Probe, encoding: probe.Encoding, variants: Callable[[], Iterator[list[edit.Edit]]]
) -> None:
    for edits, ours in zip(given := list(variants()), model.run_variants(encoding, probe.merge(READS), given), strict=True):
        theirs = model.run(encoding, probe.merge(READS), edits=edits)
        for read in READS:
            assert ours[read].dims == theirs[read].dims
            assert ours[read].coords == theirs[read].coords
            torch.testing.assert_close(ours[read].data, theirs[read].data, rtol=0, atol=TOLERANCE, msg=f"{edits}: {read}")


def test_variants_change_what_is_read(model: probe.Probe, encoding: probe.Encoding) -> None:
    clean, *others = model.run_variants(encoding, probe.Hidden(-1), [[], *_parts(), *_attention()])
    assert min(float((other.hidden().data - clean.hidden().data).abs().max()) for other in others) > 1e-4


def test_a_pass_runs_the_tokens_and_blocks_behind_the_first_edit(
    llava: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = llava.encode(wide_image, "Is there a cat in it?")
    seen: list[int] = []
    original = nn.functional.silu  # of every block's MLP, and of nothing else
    monkeypatch.setattr(nn.functional, "silu", lambda given, **options: seen.append(given.shape[1]) or original(given, **options))
    llava.run_variants(encoding, probe.Logits(at=-1), [[edit.zero(probe.Hidden(2, at=-3))]])
    length = len(encoding.tokens)
    assert seen == [*[length] * LAYERS, 3, 3]


def test_variants_of_one_first_block_share_a_pass(llava: probe.Probe, wide_image: Image.Image, starts: list[tuple[Start, int]]) -> None:
    encoding = llava.encode(wide_image, "Is there a cat in it?")
    variants = [[edit.zero(probe.Hidden(layer, at=position))] for position in (-1, -2, -3) for layer in (2, 1)]
    llava.run_variants(encoding, probe.Logits(at=-1), [[], *variants])
    first = len(encoding.tokens) - 3
    assert starts == [(Start(first, 1), 3), (Start(first, 2), 3)]


def test_a_pass_runs_at_most_twice_the_tokens_that_a_variant_needs() -> None:
    starts = {number: Start(position, 0) for number, position in enumerate((60, 10, 99, 40, 100, 85))}
    # Of 100 tokens: 90, 60, 40, 15, 1; and one variant that changes nothing.
    assert _groups(starts, 100) == [(Start(10, 0), [1, 3]), (Start(60, 0), [0]), (Start(85, 0), [5, 2]), (Start(100, 0), [4])]


def test_reads_below_an_edit_are_the_unedited_run_s(llava: probe.Probe, wide_image: Image.Image) -> None:
    encoding = llava.encode(wide_image, "Is there a cat in it?")
    clean, edited = llava.run_variants(encoding, probe.Hidden("all"), [[], [edit.zero(probe.MLPOutput(2, at=-2))]])
    assert torch.equal(edited.hidden(layers=[0, 1, 2]).data, clean.hidden(layers=[0, 1, 2]).data)
    assert torch.equal(edited.hidden(layer=4).data[:, :-2], clean.hidden(layer=4).data[:, :-2])


@pytest.mark.parametrize(
    ("of", "start"),
    [
        (edit.zero(probe.Hidden([3, 1], at=(-1, -3))), Start(-3, 1)),
        (edit.zero(probe.Hidden(-1, at=-1)), Start(-1, LAYERS)),
        (edit.zero(probe.Keys(2, at=-4)), Start(-4, 2)),
        (edit.block(probe.Attention([2, 3], query=-2, key="image")), Start(-2, 2)),
        (edit.zero(probe.HeadOutput(0, at=None)), Start(0, 0)),
        (edit.zero(probe.Vision(-2)), None),
        (edit.zero(probe.Module("model.language_model.layers.2.mlp")), None),
    ],
    ids=["hidden", "last", "keys", "block", "every position", "vision", "module"],
)
def test_where_an_edit_begins(llava: probe.Probe, wide_image: Image.Image, of: edit.Edit, start: Start | None) -> None:
    tokens = llava.encode(wide_image, "Is there a cat in it?").tokens
    expected = start and Start(start.position % len(tokens), start.layer)
    assert start_of([of], llava.runtime, tokens) == expected


def test_a_plain_encoding_of_several_rows_runs_whole_and_says_so(llava: probe.Probe, wide_image: Image.Image) -> None:
    inputs = {name: torch.cat([value, value]) for name, value in llava.encode(wide_image, "Is there a cat?").inputs.items()}
    edits = [edit.zero(probe.Hidden(2, at=-1))]
    with pytest.warns(UserWarning, match="several rows"):
        (ours,) = llava.run_variants(inputs, probe.Logits(at=-1), [edits])
    assert ours == llava.run(inputs, probe.Logits(at=-1), edits=edits)


def test_a_plain_encoding_goes_on_from_the_unedited_run(
    llava: probe.Probe, wide_image: Image.Image, starts: list[tuple[Start, int]]
) -> None:
    encoding = llava.encode(wide_image, "Is there a cat?")
    edits = [edit.zero(probe.Hidden(2, at=-1))]
    (ours,) = llava.run_variants(dict(encoding.inputs), probe.Logits(at=-1), [edits])
    theirs = llava.run(encoding, probe.Logits(at=-1), edits=edits)
    torch.testing.assert_close(ours.logits().data, theirs.logits().data, rtol=0, atol=TOLERANCE)
    assert starts == [(Start(len(encoding.tokens) - 1, 2), 1)]


def test_hooks_of_the_user_s_own_hold_once(llava: probe.Probe, wide_image: Image.Image) -> None:
    encoding, edits = llava.encode(wide_image, "Is there a cat?"), [edit.zero(probe.MLPOutput(2, at=-1))]
    reads = [probe.Hidden("all"), probe.Logits(at=-1)]
    hook = llava.model.get_submodule(llava.modules.layers[1]).register_forward_hook(lambda _, __, output: output * 2)
    try:
        with pytest.warns(UserWarning, match="forward hooks"):
            (ours,) = llava.run_variants(encoding, reads, [edits])
        assert ours == llava.run(encoding, reads, edits=edits)
    finally:
        hook.remove()


def test_memory_that_runs_out_halves_a_pass(llava: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = llava.encode(wide_image, "Is there a cat?")
    variants = [[edit.scale(probe.Hidden(1, at=-2), factor)] for factor in (0.0, 0.5, 2.0, 3.0)]
    sizes, original = [], CleanRun.forward

    def short(self: CleanRun, start: Start, edits: Any, plan: Any) -> Any:
        sizes.append(len(edits))
        if len(edits) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, start, edits, plan)

    monkeypatch.setattr(CleanRun, "forward", short)
    traces = llava.run_variants(encoding, probe.Logits(at=-1), variants)
    assert sizes == [4, 2, 1, 1, 1, 1]
    for edits, trace in zip(variants, traces, strict=True):
        expected = llava.run(encoding, probe.Logits(at=-1), edits=edits).logits().data
        torch.testing.assert_close(trace.logits().data, expected, rtol=0, atol=TOLERANCE)


def test_every_variant_is_checked_before_any_forward(llava: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, right = llava.encode(wide_image, "Is there a cat?"), [edit.zero(probe.Hidden(2, at=-1))]
    monkeypatch.setattr(llava.model, "forward", lambda **_: pytest.fail("a forward ran"))
    with pytest.raises(probe.errors.InvalidLayer, match="Layer 9"):
        llava.run_variants(encoding, probe.Logits(at=-1), [right, [edit.zero(probe.MLPOutput(9, at=-1))]])
    with pytest.raises(probe.errors.SpanNotFound, match="5000"):
        llava.run_variants(encoding, probe.Logits(at=-1), [right, [edit.zero(probe.Hidden(1, at=5000))]])
    with pytest.raises(probe.errors.InvalidEdit, match="long along feature"):
        llava.run_variants(encoding, probe.Logits(at=-1), [right, [edit.add(probe.Hidden(1, at=-1), torch.ones(7))]])
    with pytest.raises(probe.errors.InvalidEdit, match="takes edits"):
        llava.run_variants(encoding, probe.Logits(at=-1), [right, ["zero"]])
    with pytest.raises(probe.errors.InvalidRead, match="No reads"):
        llava.run_variants(encoding, [], [right])


def test_a_metric_makes_one_number_of_each_variant(llava: probe.Probe, wide_image: Image.Image) -> None:
    encoding = llava.encode(wide_image, "Is there a cat?")
    variants = [[], [edit.zero(probe.Hidden(2, at=-1))], [edit.scale(probe.MLPOutput(1, at="image"), -3.0)]]
    logits = [llava.run(encoding, probe.Logits(at=-1), edits=edits).logits().data[0, 0] for edits in variants]
    expected = torch.stack([one[1000] - one[2000] for one in logits])
    difference = probe.LogitDifference(1000, 2000)
    for metric in (difference, difference.of(encoding)):
        values = llava.run_variants(encoding, variants=variants, metric=metric)
        torch.testing.assert_close(values, expected, rtol=0, atol=TOLERANCE)
    by_hand = llava.run_variants(encoding, probe.Logits(at=-1), variants, metric=lambda trace: trace.logits().data.max())
    torch.testing.assert_close(by_hand, torch.stack([one.max() for one in logits]), rtol=0, atol=TOLERANCE)
    assert llava.run_variants(encoding, metric=difference).shape == (0,)


def test_a_bad_metric_is_refused(llava: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, read = llava.encode(wide_image, "Is there a cat?"), probe.Logits(at=-1)
    for metric, message in (
        (lambda trace: trace.logits().data[0], "a tensor of shape"),
        (lambda trace: None, "a NoneType"),
    ):
        with pytest.raises(probe.errors.InvalidRead, match=message):
            llava.run_variants(encoding, read, [[]], metric=metric)  # type: ignore[arg-type, return-value]
    with pytest.raises(probe.errors.NotFinite, match="The metric is nan"):
        llava.run_variants(encoding, read, [[]], metric=lambda trace: float("nan"))
    monkeypatch.setattr(llava.model, "forward", lambda **_: pytest.fail("a forward ran"))
    with pytest.raises(probe.errors.InvalidRead, match="there is no token 99999"):
        llava.run_variants(encoding, variants=[[]], metric=probe.TokenDifference(99999, 0))
    with pytest.raises(probe.errors.InvalidRead, match="metric= takes"):
        llava.run_variants(encoding, read, [[]], metric="yes")  # type: ignore[call-overload]
    with pytest.raises(probe.errors.InvalidRead, match="No reads"):
        llava.run_variants(encoding, variants=[[]], metric=lambda trace: 0.0)
    with pytest.raises(probe.errors.InvalidEdit, match="list of variants"):
        llava.run_variants(encoding, read, edit.zero(probe.Hidden(1)))  # type: ignore[call-overload]


def test_a_variant_that_is_not_finite_says_in_which_layer(llava: probe.Probe, wide_image: Image.Image) -> None:
    encoding = llava.encode(wide_image, "Is there a cat?")
    broken = [edit.apply(probe.Hidden(2, at=-1), lambda states: states * float("inf"))]
    with pytest.raises(probe.errors.NotFinite, match="hidden state 2, the output of decoder block 1"):
        llava.run_variants(encoding, probe.Logits(at=-1), [[edit.zero(probe.Hidden(2, at=-1))], broken])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_model_computes_what_it_did_before(
    llava: probe.Probe, wide_image: Image.Image, error: type[BaseException]
) -> None:
    encoding = llava.encode(wide_image, "Is there a cat?")
    before, hooks = llava.next_logits(encoding), _hooks(llava.model)
    calls = []

    def failing(values: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise error("in a variant")

    with pytest.raises(error, match="in a variant"):
        llava.run_variants(
            encoding, probe.Hidden("all"), [[edit.zero(probe.Hidden(1, at=-2))], [edit.apply(probe.MLPOutput(2, at=-1), failing)]]
        )
    assert calls == [1]
    assert torch.equal(llava.next_logits(encoding), before)
    assert _hooks(llava.model) == hooks
    (again,) = llava.run_variants(encoding, probe.Logits(at=-1), [[]])
    torch.testing.assert_close(again.logits().data[0, 0], before, rtol=0, atol=TOLERANCE)


def _hooks(model: nn.Module) -> list[tuple[int, int]]:
    return [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
