"""Bad edits are refused before any forward, and after an error in an edited run the model is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor

import probe
from probe import edit
from probe.errors import InvalidEdit, InvalidLayer, InvalidRead, NestedTrace, NoAttention, SpanNotFound
from tests import families, zoo

BAD: dict[str, tuple[Callable[[], probe.edit.Edit], type[Exception], str]] = {
    "width": (lambda: edit.add(probe.Hidden(2, at="image"), torch.ones(47)), InvalidEdit, "47 long along feature, what is edited 48"),
    "length": (lambda: edit.replace(probe.Hidden(2, at="image"), torch.ones(5, 48)), InvalidEdit, "5 long along token, what is edited 16"),
    "layers of a value": (
        lambda: edit.replace(probe.Hidden([1, 2], at="image"), torch.ones(3, 1, 48)),
        InvalidEdit,
        "3 long along layer, what is edited 2",
    ),
    "width of values": (lambda: edit.add(probe.Values(1), torch.ones(7)), InvalidEdit, "7 long along feature, what is edited 12"),
    "width of the tower": (lambda: edit.add(probe.Vision(1), torch.ones(7)), InvalidEdit, "7 long along feature, what is edited 32"),
    "width of a matrix": (
        lambda: edit.add(probe.Module("model.language_model.layers.1.mlp.up_proj", at="image"), torch.ones(7)),
        InvalidEdit,
        "7 long along feature, what is edited 96",
    ),
    "width of a whole matrix's input": (
        lambda: edit.add(probe.Module("model.language_model.layers.1.mlp.down_proj", side="input"), torch.ones(7)),
        InvalidEdit,
        "7 long along its last axis, what is edited 96",
    ),
    "heads of a value": (lambda: edit.add(probe.HeadOutput(1), torch.ones(3, 1, 12)), InvalidEdit, "3 long along head, what is edited 4"),
    "heads of rows": (lambda: edit.replace(probe.Attention(1, query=-1), torch.ones(3, 1, 1)), InvalidEdit, "3 long along head"),
    "complex numbers": (lambda: edit.add(probe.Hidden(1), torch.ones(48) * 1j), InvalidEdit, "got a torch.complex64 Tensor"),
    "layer": (lambda: edit.zero(probe.Hidden(9)), InvalidLayer, "layers 0 .embeddings. to 4"),
    "block of an MLP": (lambda: edit.zero(probe.MLPOutput(4)), InvalidLayer, "layers 0 to 3"),
    "head": (lambda: edit.zero(probe.HeadOutput(1, heads=4)), InvalidRead, "heads 0 to 3"),
    "head of keys": (lambda: edit.zero(probe.Keys(1, heads=4)), InvalidRead, "heads 0 to 3"),
    "head of attention": (lambda: edit.block(probe.Attention(1, query=-1, key=0, heads=7)), InvalidRead, "heads 0 to 3"),
    "position": (lambda: edit.zero(probe.Hidden(1, at=9999)), SpanNotFound, "the sequence has"),
    "span": (lambda: edit.zero(probe.Hidden(1, at="word")), SpanNotFound, "No span 'word'"),
    "no key left": (lambda: edit.block(probe.Attention(1, query="question")), InvalidEdit, "no key to attend to"),
    "module": (lambda: edit.zero(probe.Module("model.nothing")), InvalidRead, "There is no module 'model.nothing'"),
    "logits": (lambda: edit.zero(probe.Logits()), InvalidEdit, "Logits cannot be edited"),
    "rows of the tower": (lambda: edit.zero(probe.VisionAttention(1)), InvalidEdit, "VisionAttention cannot be edited"),
    "mean of heads": (lambda: edit.zero(probe.Attention(1, query=-1, heads="mean")), InvalidEdit, "mean over heads"),
    "NaN": (lambda: edit.add(probe.Hidden(1), torch.tensor(float("nan"))), InvalidEdit, "NaN or infinity"),
    "no function": (lambda: edit.apply(probe.Hidden(1), 3), InvalidEdit, "takes a function"),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.fixture(scope="module")
def encoding(model: probe.Probe, wide_image: Image.Image) -> probe.Encoding:
    return model.encode(wide_image, "Is there a cat?")


@pytest.fixture
def forwards(model: probe.Probe) -> Iterator[list[int]]:
    """One entry for each forward of the model's first block."""
    counted: list[int] = []
    handle = model.model.get_submodule(model.modules.layers[0]).register_forward_pre_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


@pytest.mark.parametrize("name", BAD)
def test_bad_edits_are_refused_before_any_forward(
    model: probe.Probe, encoding: probe.Encoding, forwards: list[int], name: str, wide_image: Image.Image
) -> None:
    made, error, message = BAD[name]
    with pytest.raises(error, match=message):
        model.run(encoding, probe.Logits(), edits=[made()])
    with pytest.raises(error, match=message):
        model.generate(encoding, edits=[made()], max_new_tokens=2)
    with model.open(wide_image) as session, pytest.raises(error, match=message):
        session.ask(["Is there a cat?"], edits=[made()], max_new_tokens=2)
    assert forwards == []


@pytest.mark.parametrize(("name", "block", "others"), [("diffusion_gemma", 0, "none"), ("t5gemma2", 3, "none"), ("mllama", 1, "0, 2")])
def test_keys_that_are_not_the_sequence_s_are_neither_read_nor_edited(name: str, block: int, others: str) -> None:
    hf, inputs = families.build(name)
    model, ran = probe.load(model=hf), []
    hf.register_forward_pre_hook(lambda *_: ran.append(1))
    message = f"block {block}: it attends to keys that are not the sequence's.*over the sequence alone: {others}"
    for change in (edit.block, edit.zero):
        with pytest.raises(NoAttention, match=message):
            model.run(inputs, probe.Logits(), edits=[change(probe.Attention(block, query=-1, key=0))])
    for read in (probe.Keys(block, at=-1), probe.Values(block, at=-1)):
        with pytest.raises(NoAttention, match=message):
            model.run(inputs, probe.Logits(), edits=[edit.zero(read)])
        with pytest.raises(NoAttention, match=message):
            model.run(inputs, read)
    assert ran == []


def test_tokens_that_attend_ahead_may_be_left_the_keys_behind_them() -> None:
    hf, inputs = families.build("paligemma")  # a prompt attends to all of itself
    model = probe.load(model=hf)
    first = edit.block(probe.Attention(1, query=(0, 1), key=(0, 1, 2)))
    rows = model.run(inputs, probe.Attention(1, query=(0, 1)), edits=first).attention(layer=1).data[0]
    assert float(rows[..., :3].max()) == 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), rtol=0, atol=1e-6)
    with pytest.raises(InvalidEdit, match="leaves position 0 no key to attend to: every position is blocked"):
        model.run(inputs, probe.Logits(), edits=edit.block(probe.Attention(1, query=0)))


@pytest.mark.parametrize(("name", "widths"), [("gemma3n", (128, 128)), ("glm5_next", (128, 32)), ("qwen4_exp", (64, 32))])
def test_widths_of_several_residual_streams_are_known(name: str, widths: tuple[int, int]) -> None:
    hf, inputs = families.build(name)
    model, ran = probe.load(model=hf), []
    hf.register_forward_pre_hook(lambda *_: ran.append(1))
    for layer, width in zip((1, -1), widths, strict=True):
        with pytest.raises(InvalidEdit, match=f"7 long along feature, what is edited {width}"):
            model.run(inputs, probe.Logits(), edits=[edit.add(probe.Hidden(layer), torch.ones(7))])
        assert ran == []
        model.run(inputs, probe.Logits(), edits=[edit.add(probe.Hidden(layer), torch.ones(width))])
        ran.clear()


def test_what_is_no_edit_is_refused(model: probe.Probe, encoding: probe.Encoding) -> None:
    with pytest.raises(InvalidEdit, match="edits= takes edits"):
        model.run(encoding, probe.Logits(), edits=[probe.Hidden(1)])  # type: ignore[list-item]
    with pytest.raises(InvalidEdit, match=r"block\(\) takes a probe\.Attention read"):
        edit.block(probe.Hidden(1))  # type: ignore[arg-type]


class _Stopped(Exception):
    pass


ERRORS = {"error": _Stopped("stopped"), "interrupt": KeyboardInterrupt(), "memory": torch.OutOfMemoryError("CUDA out of memory")}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("way", ["run", "generate", "ask"])
def test_after_an_error_in_an_edit_the_model_is_as_it_was(
    model: probe.Probe, encoding: probe.Encoding, wide_image: Image.Image, name: str, way: str
) -> None:
    def fails(_: Tensor) -> Tensor:
        raise ERRORS[name]

    def hooks() -> list[int]:
        return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.model.modules()]

    changes = [edit.zero(probe.Hidden(1, at="image")), edit.apply(probe.MLPOutput(2, at=-1), fails)]
    before, known = model.run(encoding, probe.Logits()).logits().data, hooks()
    answer = model.generate(encoding, max_new_tokens=3)
    with model.open(wide_image) as session:
        ways: dict[str, Callable[[], object]] = {
            "run": lambda: model.run(encoding, probe.Logits(), edits=changes),
            "generate": lambda: model.generate(encoding, edits=changes, max_new_tokens=2),
            "ask": lambda: session.ask(["Is there a cat?"], edits=changes, max_new_tokens=2),
        }
        with pytest.raises(type(ERRORS[name])):
            ways[way]()
    assert torch.equal(model.run(encoding, probe.Logits()).logits().data, before)
    assert model.generate(encoding, max_new_tokens=3) == answer
    assert hooks() == known
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("inner", ["run", "lens", "next_logits", "generate", "ask", "another wrapper"])
def test_a_run_inside_an_edit_is_refused(model: probe.Probe, encoding: probe.Encoding, wide_image: Image.Image, inner: str) -> None:
    other = probe.load(model=model.model, processor=model.processor)
    ways: dict[str, Callable[[Tensor], object]] = {
        "run": lambda _: model.run(encoding, probe.Logits(), edits=[edit.zero(probe.Hidden(1))]),
        "lens": lambda states: model.lens(probe.Activation(states, ("token", "feature")), words=5, normed=False),
        "next_logits": lambda _: model.next_logits(encoding),
        "generate": lambda _: model.generate(encoding, max_new_tokens=1),
        "ask": lambda _: model.open(wide_image).ask(["Is there a cat?"], max_new_tokens=1),
        "another wrapper": lambda _: other.run(encoding, probe.Hidden(1)),
    }

    def nested(states: Tensor) -> Tensor:
        ways[inner](states)
        return states

    before = model.next_logits(encoding)
    with pytest.raises(NestedTrace, match="inside a run of the same model"):
        model.run(encoding, probe.Logits(), edits=[edit.apply(probe.Hidden(2), nested)])
    assert torch.equal(model.next_logits(encoding), before)
