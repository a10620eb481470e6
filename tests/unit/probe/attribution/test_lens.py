"""The logit lens: what it takes, what it holds, and what it says of words that are no token."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

import probe
from probe.attribution import lens as lens_module
from probe.attribution.words import token_ids
from probe.errors import InvalidRead, NotFinite, ProcessorNeeded
from probe.tracing.activation import RaggedActivation
from tests import zoo


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture(scope="module")
def trace(model: probe.Probe, wide_image: Image.Image) -> probe.Trace:
    answer = model.encode(wide_image, "Is there a cat?").with_answer("yes, a cat.")
    return model.run(answer, [probe.Hidden("all"), probe.Hidden([2, 4], at="image"), probe.Logits(at=None), probe.Vision("all")])


@pytest.fixture
def widest(model: probe.Probe) -> Iterator[list[int]]:
    """How many positions went through the head at once, each time."""
    seen: list[int] = []
    hook = model.model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[:-1].numel()))
    yield seen
    hook.remove()


def by_hand(model: probe.Probe, states: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.model.lm_head(model.model.model.language_model.norm(states)).log_softmax(-1)


def test_the_last_layer_gives_the_models_own_distribution(model: probe.Probe, trace: probe.Trace) -> None:
    ids = [100, 7, 31999]
    ours = model.lens(trace.hidden(layers=[4]), words=ids)
    theirs = trace.logits(None).data.log_softmax(-1)[..., ids]
    assert ours.dims == ("layer", "batch", "token", "word")
    assert ours.data.dtype == torch.float32
    assert float((ours.data[0] - theirs).abs().max()) < 1e-5  # the order of sums over 32,064 logits


def test_the_logits_of_words_are_hugging_faces(model: probe.Probe, trace: probe.Trace) -> None:
    """Exactly those of a forward, at the same positions at once or not: 1e-5, another order of float32 sums; log_softmax of them all is the lens."""
    hidden = trace.hidden("image", layer=4)
    own = trace.logits("image").data
    every = tuple(range(own.shape[-1]))
    torch.testing.assert_close(model.lens(hidden, (5, 7), logits=True).data, own[..., [5, 7]].float(), atol=1e-5, rtol=0)
    logits = model.lens(hidden, every, logits=True).data
    torch.testing.assert_close(logits.log_softmax(-1), model.lens(hidden, every).data, atol=1e-5, rtol=0)


def test_every_layer_has_its_own_norm_or_none(model: probe.Probe, trace: probe.Trace, widest: list[int]) -> None:
    states = trace.hidden(layers=[4, 1, 2])  # the last one is normed already
    ours = model.lens(states, words=range(50))
    assert ours.coords["layer"] == (4, 1, 2)
    assert ours.coords["token"] == states.coords["token"]
    assert float((ours.data[1:] - by_hand(model, states.data[1:])[..., :50]).abs().max()) < 1e-5
    assert float((ours.data[0] - trace.logits(None).data.log_softmax(-1)[..., :50]).abs().max()) < 1e-5


def test_one_layer_says_itself_whether_it_is_normed(model: probe.Probe, trace: probe.Trace) -> None:
    states = trace.hidden(layers=[2, 4])
    assert states.normed == (False, True)
    together = model.lens(states, words=[5, 6])
    for layer in (2, 4):
        assert torch.allclose(model.lens(states.sel(layer=layer), words=[5, 6]).data, together.sel(layer=layer).data, atol=1e-5)
    bare = probe.Activation(states.data[0], states.dims[1:])
    with pytest.raises(InvalidRead, match=r"after the final norm.*normed=False"):
        model.lens(bare, words=[5])
    assert torch.equal(model.lens(bare, words=[5, 6], normed=False).data, model.lens(states.sel(layer=2), words=[5, 6]).data)
    assert not torch.allclose(model.lens(bare, words=[5, 6], normed=True).data, model.lens(bare, words=[5, 6], normed=False).data)


def test_the_vocabulary_is_held_for_a_block_of_positions(
    model: probe.Probe, trace: probe.Trace, widest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.lens(trace.hidden(), words=[5, 6])
    positions = trace.hidden().data[..., 0].numel()
    monkeypatch.setattr(lens_module, "BLOCK", 7)
    widest.clear()
    parts = model.lens(trace.hidden(), words=[5, 6])
    assert max(widest) == 7
    assert sum(widest) == positions
    assert float((parts.data - whole.data).abs().max()) < 1e-5


def test_words_over_image_tokens_fold_onto_the_image(model: probe.Probe, trace: probe.Trace) -> None:
    words = model.lens(trace.hidden("image", layers=[2]), words=("cat", "yes"))
    assert words.words == ("cat", "yes")
    assert words.coords["word"] == tuple(zoo.tokenizer().convert_tokens_to_ids(["▁cat", "▁yes"]))
    assert words.sel(layer=2, word="cat").grid().shape == {"batch": 1, "row": 4, "col": 4}
    assert words.normed is None


def test_other_axes_are_kept_whatever_their_order(model: probe.Probe) -> None:
    states = probe.Activation(
        torch.randn(2, 1, 3, 48, 2),
        ("layer", "batch", "head", "feature", "token"),
        {"layer": (1, 4), "head": (0, 3, 5)},
        normed=(False, True),
    )
    ours = model.lens(states, words=[5, 6])
    assert ours.shape == {"layer": 2, "batch": 1, "head": 3, "token": 2, "word": 2}
    assert ours.coords == {"layer": (1, 4), "head": (0, 3, 5), "word": (5, 6)}
    expected = by_hand(model, states.data[0].movedim(-2, -1))[..., [5, 6]]
    assert float((ours.data[0] - expected).abs().max()) < 1e-5


def test_the_likeliest_tokens_come_with_their_probabilities(model: probe.Probe, trace: probe.Trace) -> None:
    likely = model.lens(trace.hidden(layers=[2, 4]), top=3)
    theirs = trace.logits(None).data.softmax(-1).topk(3)
    assert likely.ids.dims == likely.probabilities.dims == ("layer", "batch", "token", "word")
    assert torch.equal(likely.sel(layer=4).ids.data, theirs.indices)
    assert float((likely.sel(layer=4).probabilities.data - theirs.values).abs().max()) < 1e-5
    assert likely.texts.shape == likely.ids.data.shape
    first = int(theirs.indices[0, 5, 0])
    assert likely.texts[1, 0, 5, 0] == zoo.tokenizer().decode([first])
    line = str(likely.sel(layer=4).isel(token=[5]))
    assert line.startswith(f"batch 0, token 5: {zoo.tokenizer().decode([first])!r} {float(theirs.values[0, 5, 0]):.2f}, ")
    assert str(likely).endswith(f"... and {likely.ids.data[..., 0].numel() - 40} more")
    assert str(likely.isel(layer=0, batch=0, token=0)).count(",") == 2
    assert repr(likely.sel(layer=4)) == f"LikelyTokens(batch=1, token={len(trace.tokens[0])}, word=3)"
    for same in (pickle.loads(pickle.dumps(likely)), copy.deepcopy(likely)):
        assert same == likely
    assert likely != likely.sel(layer=[4])


def test_rows_of_different_lengths_have_a_lens_each(model: probe.Probe) -> None:
    rows = [
        probe.Activation(torch.randn(1, 1, n, 48), ("layer", "batch", "token", "feature"), {"layer": (2,)}, normed=(False,)) for n in (2, 3)
    ]
    ragged = model.lens(RaggedActivation(rows), words=[5, 6])
    assert isinstance(ragged, RaggedActivation)
    assert [row.shape["token"] for row in ragged] == [2, 3]
    assert float((ragged[1].data - by_hand(model, rows[1].data)[..., [5, 6]]).abs().max()) < 1e-5
    with pytest.raises(InvalidRead, match=r"each of its \.rows\(\)"):
        model.lens(RaggedActivation(rows), top=2)


def test_half_precision_sums_in_float32(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    half = probe.load(model=hf, processor=processor, dtype="bfloat16")
    run = half.run(half.encode(wide_image, "Is there a cat?"), [probe.Hidden([4]), probe.Logits(None)])
    ours = half.lens(run.hidden(layers=[4]), words=[5, 6]).data[0]
    theirs = run.logits(None).data.float().log_softmax(-1)[..., [5, 6]]
    # Logits of up to 4 are rounded to 8 bits of mantissa in both, and may round apart where sums are taken in another order: 4 * 2**-8.
    assert ours.dtype == torch.float32
    assert float((ours - theirs).abs().max()) < 0.016


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: m.lens(t.vision(), words=[5]), "have 32 features, and the head of llava takes 48.*not a vision tower's"),
        (lambda m, t: m.lens(t.logits(None), words=[5]), "have 32064 features"),
        (lambda m, t: m.lens(t.hidden().mean("feature"), words=[5]), "takes floating-point numbers with an axis feature"),
        (lambda m, t: m.lens(t.hidden().to(torch.int64), words=[5]), "takes floating-point numbers"),
        (lambda m, t: m.lens(t.hidden()[:, :, []], words=[5]), "holds no position"),
        (lambda m, t: m.lens(t.hidden()), "takes words=.*or top="),
        (lambda m, t: m.lens(t.hidden(), words=[5], top=5), "one of them"),
        (lambda m, t: m.lens(t.hidden(), top=0), "an integer from 1 to 32064"),
        (lambda m, t: m.lens(t.hidden(), top=2.5), "an integer from 1 to 32064"),
        (lambda m, t: m.lens(t.hidden(), words=()), "name one or more words"),
        (lambda m, t: m.lens(t.hidden(), words=[32064]), "Token 32064 was asked for; the vocabulary has tokens 0 to 32063"),
        (lambda m, t: m.lens(t.hidden(), words=("cat", " ")), "' ' is not a word"),
        (lambda m, t: m.lens(t.hidden(), words=("cat", " cat")), "'cat' and ' cat' are one token"),
        (
            lambda m, t: m.lens(t.hidden(), words=("pottedplant",)),
            r"'pottedplant' is no token .* written as '▁p' \(\d+\), 'otted' \(\d+\), 'plant' \(\d+\)",
        ),
    ],
)
def test_what_a_lens_cannot_take_is_refused_before_any_forward(
    model: probe.Probe, trace: probe.Trace, widest: list[int], call: Any, message: str
) -> None:
    with pytest.raises(InvalidRead, match=message):
        call(model, trace)
    assert widest == []


def test_a_word_is_the_token_that_it_is_in_a_text() -> None:
    tokenizer = zoo.tokenizer()
    cat, bare = tokenizer.convert_tokens_to_ids(["▁cat", "cat"])
    assert token_ids("cat", tokenizer, 32064) == {cat: "cat"}
    assert token_ids([bare, "yes"], tokenizer, 32064) == {bare: "cat", tokenizer.convert_tokens_to_ids("▁yes"): "yes"}
    # After a space it is two tokens, and one by itself.
    assert token_ids("猫", tokenizer, 32064) == {tokenizer.convert_tokens_to_ids("猫"): "猫"}


def test_a_model_without_a_processor_takes_token_ids(wide_image: Image.Image) -> None:
    hf, _ = zoo.llava()
    bare = probe.load(model=hf)
    states = probe.Activation(torch.randn(2, 48), ("token", "feature"), normed=(False,))
    assert bare.lens(states, words=5).words == ("<5>",)
    assert set(bare.lens(states, top=1).texts.flat) <= {f"<{token}>" for token in range(32064)}
    with pytest.raises(ProcessorNeeded, match="Without one, words are token ids"):
        bare.lens(states, words="cat")


def test_numbers_that_are_not_finite_are_refused(model: probe.Probe) -> None:
    states = probe.Activation(torch.full((2, 48), torch.nan), ("token", "feature"), normed=(True,))
    with pytest.raises(NotFinite, match="logits of a lens hold NaN"):
        model.lens(states, words=[5])


def test_no_hook_remains_after_an_error(model: probe.Probe, trace: probe.Trace) -> None:
    def fail(module: object, inputs: object) -> None:
        raise RuntimeError("out of memory")

    before = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.model.modules()]
    hook = model.model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.lens(trace.hidden(), words=[5])
    hook.remove()
    assert [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.model.modules()] == before


def test_runs_in_other_threads_do_not_see_the_lens(model: probe.Probe, trace: probe.Trace, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    expected = model.next_logits(encoding)
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: [model.lens(trace.hidden(), words=[5]) for _ in range(10)]),
        threading.Thread(target=lambda: found.extend(model.next_logits(encoding) for _ in range(10))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, expected) for one in found)
    assert len(found) == 10


def test_a_tensor_without_named_axes_is_refused(model: probe.Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model, "forward", lambda **_: pytest.fail("a forward ran"))
    for ask in ({"words": 5}, {"top": 2}):
        with pytest.raises(InvalidRead, match=r"takes an Activation, got a Tensor. Name the axes of a tensor: probe\.Activation"):
            model.lens(torch.ones(3, 48), **ask)  # type: ignore[call-overload]
