"""Edits: every kind of edit of every kind of read, with an image in the input, equals torch hooks on plain Hugging Face.

Norm: the largest absolute difference of the logits. Both run the same kernel on the same inputs: 0. Attention rows that are changed become
weights @ values in float32, whose sums have another order than the kernel's: 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import probe
from probe import edit
from tests import hooked, zoo

WIDTH, HEADS, LAYERS = 48, 4, 4
ROWS_TOLERANCE = 1e-5


@dataclass
class Case:
    """A model, an answered image, and plain logits."""

    model: probe.Probe
    answer: probe.Answer

    def __post_init__(self) -> None:
        self.hf: Any = self.model.model
        self.inputs = self.model.backbone.forward_inputs(self.hf, self.answer.inputs)
        self.plain = hooked.logits(self.hf, self.inputs)
        self.layers, self.parts = self.model.modules.layers, self.model.modules.parts
        self.key_heads: int = self.hf.config.text_config.num_key_value_heads

    def at(self, name: str) -> list[int]:
        return list(self.answer.tokens.span(name).positions)

    def edited(self, *edits: edit.Edit) -> Tensor:
        return self.model.run(self.answer, probe.Logits(), edits=edits).logits().data

    def check(self, edits: edit.Edit | list[edit.Edit], *changes: Any, tolerance: float = 0) -> None:
        theirs = hooked.logits(self.hf, self.inputs, *changes)
        assert apart(theirs, self.plain) > 1e-4  # an edit that changes nothing would prove nothing
        assert apart(self.edited(*([edits] if isinstance(edits, edit.Edit) else edits)), theirs) <= tolerance


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())


def opened(name: str) -> tuple[probe.Probe, probe.Answer]:
    hf, processor = {"llava": zoo.llava, "llava_next": zoo.llava_next}[name]()
    model = probe.load(model=hf, processor=processor)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    return model, model.encode(Image.fromarray(pixels), "Is there a cat?").with_answer("yes, a pottedplant.")


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*opened(request.param))


@pytest.fixture(scope="module")
def llava() -> Case:
    return Case(*opened("llava"))


@pytest.fixture(scope="module")
def tiled() -> Case:
    return Case(*opened("llava_next"))


@pytest.fixture(scope="module")
def other(llava: Case) -> probe.Answer:
    """The same question about another image."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    return llava.model.encode(Image.fromarray(pixels), "Is there a cat?").with_answer("yes, a pottedplant.")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kinds(read: probe.Read, width: int) -> Iterator[tuple[edit.Edit, Callable[[Tensor], Tensor]]]:
    """Every kind of edit with a value of the read's features, and what a hook does instead."""
    vector = random(width)
    yield edit.zero(read), torch.zeros_like
    yield edit.replace(read, vector), lambda values: vector.expand_as(values)
    yield edit.add(read, vector, scale=0.5), lambda values: values + 0.5 * vector
    yield edit.scale(read, vector), lambda values: values * vector
    yield edit.scale(read, -3), lambda values: values * -3
    yield edit.apply(read, lambda values: values.flip(-1)), lambda values: values.flip(-1)


KINDS = ["zero", "replace", "add", "scale by a vector", "scale", "apply"]


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("read", ["Hidden", "embeddings", "before the norm", "after the norm", "Projected", "AttentionOutput", "MLPOutput"])
def test_edits_of_states_equal_hooks(case: Case, read: str, kind: int) -> None:
    place = "question" if "norm" in read else "image"
    address, path, side = {
        "Hidden": (probe.Hidden(2, at="image"), case.layers[1], "output"),
        "embeddings": (probe.Hidden(0, at="image"), case.layers[0], "input"),
        "before the norm": (probe.Hidden(-1, at="question", normed=False), case.layers[-1], "output"),
        "after the norm": (probe.Hidden(-1, at="question"), str(case.model.modules.final_norm), "output"),
        "Projected": (probe.Projected(), case.layers[0], "input"),
        "AttentionOutput": (probe.AttentionOutput(1, at="image"), f"{case.layers[1]}.self_attn", "output"),
        "MLPOutput": (probe.MLPOutput(1, at="image"), f"{case.layers[1]}.mlp", "output"),
    }[read]
    ours, theirs = list(kinds(address, WIDTH))[kind]
    case.check(ours, hooked.module(case.hf, path, hooked.at(case.at(place), theirs), side))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_edits_of_heads_equal_hooks(case: Case, kind: int) -> None:
    ours, theirs = list(kinds(probe.HeadOutput(1, at="image", heads=(3, 0)), WIDTH // HEADS))[kind]
    projection = f"{case.layers[1]}.self_attn.o_proj"
    case.check(ours, hooked.module(case.hf, projection, hooked.at_heads(case.at("image"), [3, 0], HEADS, theirs), "input"))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("name", ["Queries", "Keys", "Values"])
def test_edits_of_queries_keys_and_values_equal_the_kernels_other_arguments(case: Case, name: str, kind: int) -> None:
    read = getattr(probe, name)(1, at="image", heads=1)
    ours, theirs = list(kinds(read, WIDTH // HEADS))[kind]
    argument = {"Queries": "query", "Keys": "key", "Values": "value"}[name]

    def change(call: dict[str, Any]) -> None:
        call[argument] = call[argument].clone()
        call[argument][0, 1, case.at("image")] = theirs(call[argument][0, 1, case.at("image")])

    case.check(ours, hooked.attention_call(case.hf, f"{case.layers[1]}.self_attn", change))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_edits_of_the_vision_tower_are_of_every_tile(case: Case, kind: int) -> None:
    ours, theirs = list(kinds(probe.Vision(2), 32))[kind]

    def change(states: Tensor) -> Tensor:
        return torch.cat([states[:, :1], theirs(states[:, 1:])], 1)

    case.check(ours, hooked.module(case.hf, case.model.modules.vision_blocks[1], change))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_edits_of_a_whole_module_equal_hooks(case: Case, kind: int) -> None:
    path = "model.multi_modal_projector"
    for side, width in (("output", WIDTH), ("input", 32)):
        ours, theirs = list(kinds(probe.Module(path, side=side), width))[kind]
        case.check(ours, hooked.module(case.hf, path, theirs, side))


@pytest.mark.parametrize("side", ["input", "output"])
def test_edits_of_a_module_at_positions_equal_hooks(case: Case, side: str) -> None:
    path = f"{case.layers[2]}.mlp"
    for ours, theirs in kinds(probe.Module(path, side=side, at="image"), WIDTH):  # type: ignore[arg-type]
        case.check(ours, hooked.module(case.hf, path, hooked.at(case.at("image"), theirs), side))


def test_a_value_may_differ_between_positions_and_layers(case: Case) -> None:
    image = case.at("image")
    tokens, both = random(len(image), WIDTH), random(2, len(image), WIDTH)
    case.check(
        edit.replace(probe.Hidden(2, at="image"), tokens),
        hooked.module(case.hf, case.layers[1], hooked.at(image, lambda _: tokens)),
    )
    for layers in ((1, 3), (3, 1)):  # in the order asked
        case.check(
            edit.add(probe.MLPOutput(layers, at="image"), both),
            *(
                hooked.module(case.hf, f"{case.layers[layer]}.mlp", hooked.at(image, lambda values, number=number: values + both[number]))
                for number, layer in enumerate(layers)
            ),
        )
    one_each = random(2, 1, WIDTH)
    case.check(
        edit.add(probe.Hidden([1, 2], at="image"), one_each),
        hooked.module(case.hf, case.layers[0], hooked.at(image, lambda values: values + one_each[0])),
        hooked.module(case.hf, case.layers[1], hooked.at(image, lambda values: values + one_each[1])),
    )


def test_a_value_may_differ_between_heads(case: Case) -> None:
    image, width = case.at("image"), WIDTH // HEADS
    paths = [f"{layer}.self_attn.o_proj" for layer in case.layers]
    for value in (random(2, len(image), width), random(2, 1, width), random(1, len(image), width)):
        case.check(
            edit.replace(probe.HeadOutput(1, at="image", heads=(0, 2)), value),
            hooked.module(
                case.hf,
                paths[1],
                hooked.at_heads(image, [0, 2], HEADS, lambda values, value=value: value.expand_as(values)),
                "input",
            ),
        )
    layers = random(2, HEADS, len(image), width)
    case.check(
        edit.add(probe.HeadOutput([0, 1], at="image"), layers),
        *(
            hooked.module(
                case.hf,
                paths[number],
                hooked.at_heads(image, list(range(HEADS)), HEADS, lambda values, number=number: values + layers[number]),
                "input",
            )
            for number in range(2)
        ),
    )


def test_states_of_another_image_are_patched_in_by_name(llava: Case, other: probe.Answer) -> None:
    """Activation patching: the axes of an Activation are matched by name, whatever their order."""
    image = llava.at("image")
    reads = [probe.Hidden([1, 2], at="image"), probe.HeadOutput(1, at="image"), probe.Vision([1, 2]), probe.Projected()]
    there = llava.model.run(other, reads)
    states = there.hidden("image").data[:, 0]
    expected = [
        hooked.module(llava.hf, llava.layers[number], hooked.at(image, lambda _, number=number: states[number])) for number in (0, 1)
    ]
    for value in (there.hidden("image"), there.hidden("image").isel(batch=0), states):
        llava.check(edit.replace(probe.Hidden([1, 2], at="image"), value), *expected)
        expected = [
            hooked.module(llava.hf, llava.layers[number], hooked.at(image, lambda _, number=number: states[number])) for number in (0, 1)
        ]
    turned = there.hidden("image", layer=2)[0]
    turned = probe.Activation(turned.data.T.contiguous(), ("feature", "token"))
    llava.check(
        edit.replace(probe.Hidden(2, at="image"), turned),
        hooked.module(llava.hf, llava.layers[1], hooked.at(image, lambda _: states[1])),
    )
    heads = there[reads[1]]
    llava.check(
        edit.replace(reads[1], heads),
        hooked.module(
            llava.hf,
            f"{llava.layers[1]}.self_attn.o_proj",
            hooked.at_heads(image, [0, 1, 2, 3], HEADS, lambda _: heads.data[0, 0]),
            "input",
        ),
    )
    tower = there.vision().data

    def whole(number: int) -> Callable[[Tensor], Tensor]:
        return lambda values: torch.cat([values[:, :1], tower[number]], 1)

    blocks = llava.model.modules.vision_blocks
    llava.check(
        edit.replace(probe.Vision([1, 2]), there.vision()),
        *(hooked.module(llava.hf, blocks[number], whole(number)) for number in (0, 1)),
    )
    projected = there.projected()
    patched = llava.edited(edit.replace(probe.Projected(), projected))
    assert apart(patched, hooked.logits(llava.hf, llava.model.backbone.forward_inputs(llava.hf, other.inputs))) == 0


def test_states_of_the_tower_are_patched_in_tile_by_tile(tiled: Case) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    other = tiled.model.encode(Image.fromarray(pixels), "Is there a cat?").with_answer("yes, a pottedplant.")
    there = tiled.model.run(other, probe.Vision(3))
    assert there.vision().shape["batch"] == 3
    tiled.check(
        edit.replace(probe.Vision(3), there.vision()),
        hooked.module(tiled.hf, tiled.model.modules.vision_blocks[2], lambda values: torch.cat([values[:, :1], there.vision().data], 1)),
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_padded_batch_gets_its_own_value(side: str, wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf)
    processor.tokenizer.padding_side = side
    texts = ["USER: <image>\nIs there a cat? ASSISTANT:", "USER: <image>\nIs there a cat or a cow? ASSISTANT:"]
    inputs = processor(images=[wide_image, wide_image.transpose(Image.Transpose.ROTATE_180)], text=texts, return_tensors="pt", padding=True)
    processor.tokenizer.padding_side = "left"
    real = [row.nonzero().flatten().tolist() for row in inputs["attention_mask"]]
    assert len(real[0]) < len(real[1])
    plain = hooked.logits(hf, inputs)
    path = model.modules.layers[1]

    def check(ours: edit.Edit, *changes: Any) -> None:
        found = model.run(inputs, probe.Logits(), edits=[ours]).logits()
        theirs = hooked.logits(hf, inputs, *changes)
        for row, positions in enumerate(real):
            assert apart(found.rows()[row].data[0], theirs[row, positions]) == 0
            assert apart(theirs[row, positions], plain[row, positions]) > 1e-4

    def rows(values: Callable[[int], Callable[[Tensor], Tensor]], of: list[list[int]]) -> list[Any]:
        return [hooked.module(hf, path, hooked.at(positions, values(row), row)) for row, positions in enumerate(of)]

    last = [[positions[-1], positions[3]] for positions in real]
    vector, by_row = random(WIDTH), random(1, 2, 2, WIDTH)
    check(edit.add(probe.Hidden(2, at=(-1, 3)), vector), *rows(lambda _: lambda values: values + vector, last))
    check(edit.replace(probe.Hidden(2, at=(-1, 3)), by_row), *rows(lambda row: lambda _: by_row[0, row], last))
    everywhere = model.run(inputs, probe.Hidden(3)).hidden(layer=3)
    assert isinstance(everywhere, probe.RaggedActivation)
    check(edit.replace(probe.Hidden(2), everywhere), *rows(lambda row: lambda _: everywhere[row].data[0], real))
    images = model.run(inputs, probe.Hidden(3, at="image")).hidden()
    image = [[position for position in positions if inputs["input_ids"][row, position] == 32000] for row, positions in enumerate(real)]
    assert all(image)
    check(edit.replace(probe.Hidden(2, at="image"), images), *rows(lambda row: lambda _: images.data[0, row], image))
    shared = model.run(inputs, probe.Hidden(3, at="image")).hidden().isel(batch=[1])
    check(edit.replace(probe.Hidden(2, at="image"), shared), *rows(lambda _: lambda _: shared.data[0, 0], image))


@pytest.mark.parametrize("side", ["left", "right"])
def test_blocked_keys_of_a_padded_batch_are_each_rows_own(side: str, wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf)
    processor.tokenizer.padding_side = side
    texts = ["USER: <image>\nIs there a cat? ASSISTANT:", "USER: <image>\nIs there a cat or a cow? ASSISTANT:"]
    inputs = processor(images=[wide_image] * 2, text=texts, return_tensors="pt", padding=True)
    processor.tokenizer.padding_side = "left"
    knock_out = edit.block(probe.Attention("all", query=-1, key="image"))
    found = model.run(inputs, [probe.Logits(at=-1), probe.Attention("all", query=-1)], edits=knock_out)
    plain = model.run(inputs, probe.Logits(at=-1))
    for row, text in enumerate(texts):
        alone = model.run(processor(images=wide_image, text=text, return_tensors="pt"), probe.Logits(at=-1), edits=knock_out)
        assert apart(found.logits().data[row], alone.logits().data[0]) < 2e-5  # padding changes the order of sums
        assert apart(found.logits().data[row], plain.logits().data[row]) > 1e-3
        rows = found.attention().rows()[row].data[:, 0]
        image = list(found.tokens[row].span("image").positions)
        assert float(rows[..., image].max()) == 0
        torch.testing.assert_close(rows.sum(-1), torch.ones(LAYERS, HEADS, 1), rtol=0, atol=1e-6)


def test_several_edits_at_one_address_are_done_in_the_order_given(case: Case) -> None:
    read, image, vector = probe.Hidden(2, at="image"), case.at("image"), random(WIDTH)
    add, double = edit.add(read, vector), edit.scale(read, 2)
    case.check([add, double], hooked.module(case.hf, case.layers[1], hooked.at(image, lambda values: (values + vector) * 2)))
    case.check([double, add], hooked.module(case.hf, case.layers[1], hooked.at(image, lambda values: values * 2 + vector)))
    assert apart(case.edited(add, double), case.edited(double, add)) > 1e-4
    # Projected tokens and the embeddings at the image are the same states.
    assert (
        apart(
            case.edited(edit.add(probe.Projected(), vector), edit.scale(probe.Hidden(0, at="image"), 2)),
            hooked.logits(
                case.hf,
                case.inputs,
                hooked.module(case.hf, case.layers[0], hooked.at(image, lambda values: (values + vector) * 2), "input"),
            ),
        )
        == 0
    )


def test_edits_of_a_module_and_of_its_states_are_done_in_the_order_given(case: Case) -> None:
    vector = random(WIDTH)
    double, add = edit.scale(probe.Hidden(2), 2), edit.add(probe.Module(case.layers[1]), vector)
    case.check([double, add], hooked.module(case.hf, case.layers[1], lambda values: values * 2 + vector))
    case.check([add, double], hooked.module(case.hf, case.layers[1], lambda values: (values + vector) * 2))


def test_an_activation_gives_each_layer_and_head_its_own_whatever_their_order(llava: Case, other: probe.Answer) -> None:
    trace = llava.model.run(other, [probe.Hidden("all", at="image"), probe.HeadOutput(1, at="image")])
    in_order = trace[probe.Hidden([1, 3], at="image")]
    expected = llava.edited(edit.replace(probe.Hidden([1, 3], at="image"), in_order))
    for states in (in_order, trace[probe.Hidden([3, 1], at="image")], trace[probe.Hidden("all", at="image")]):
        assert apart(llava.edited(edit.replace(probe.Hidden([3, 1], at="image"), states)), expected) == 0
    heads = edit.replace(probe.HeadOutput(1, at="image", heads=(0, 3)), trace[probe.HeadOutput(1, at="image", heads=(0, 3))])
    others = edit.replace(probe.HeadOutput(1, at="image", heads=(3, 0)), trace[probe.HeadOutput(1, at="image")])
    assert apart(llava.edited(heads), llava.edited(others)) == 0
    # Of other layers they are put in order: the states of one layer into another.
    moved = edit.replace(probe.Hidden([2, 3], at="image"), in_order)
    by_hand = [edit.replace(probe.Hidden(to, at="image"), in_order.sel(layer=of)) for of, to in ((1, 2), (3, 3))]
    assert apart(llava.edited(moved), llava.edited(*by_hand)) == 0


def test_a_value_is_that_of_when_the_edit_was_made(llava: Case) -> None:
    for value in (random(WIDTH), random(WIDTH).numpy()):
        steered = edit.add(probe.Hidden(2), value)
        before = llava.edited(steered)
        value *= -5
        assert apart(llava.edited(steered), before) == 0
        assert apart(before, llava.plain) > 1e-4


@pytest.mark.parametrize(
    "value", [np.float32(2), np.arange(WIDTH), np.ones((1, WIDTH)), np.ones(2 * WIDTH, np.float32)[::2], np.ones(WIDTH) > 0]
)
def test_values_may_be_numpy_s(llava: Case, value: Any) -> None:
    expected = torch.from_numpy(np.array(value, dtype=np.float64))
    assert apart(llava.edited(edit.add(probe.Hidden(2), value)), llava.edited(edit.add(probe.Hidden(2), expected))) == 0


def test_edits_at_several_layers_are_done_as_the_forward_reaches_them(case: Case) -> None:
    edits = [
        edit.zero(probe.MLPOutput(3, at="image")),
        edit.scale(probe.Hidden(1, at="question"), 2),
        edit.zero(probe.HeadOutput(1, heads=0)),
    ]
    changes = lambda: (  # noqa: E731
        hooked.module(case.hf, f"{case.layers[3]}.mlp", hooked.at(case.at("image"), torch.zeros_like)),
        hooked.module(case.hf, case.layers[0], hooked.at(case.at("question"), lambda values: values * 2)),
        hooked.module(
            case.hf,
            f"{case.layers[1]}.self_attn.o_proj",
            hooked.at_heads(list(range(len(case.answer.tokens))), [0], HEADS, torch.zeros_like),
            "input",
        ),
    )
    case.check(edits, *changes())
    case.check(edits[::-1], *changes())


@pytest.mark.parametrize(
    "read",
    [
        probe.Hidden(2, at="image"),
        probe.Hidden(0, at="image"),
        probe.Hidden(-1, at="image"),
        probe.Hidden(-1, at="image", normed=False),
        probe.Projected(),
        probe.AttentionOutput(1, at="image"),
        probe.MLPOutput(1, at="image"),
        probe.HeadOutput(1, at="image", heads=(1, 3)),
        probe.Queries(1, at="image"),
        probe.Keys(1, at="image"),
        probe.Values(1, at="image", heads=1),
        probe.Vision(2),
        probe.Module("model.multi_modal_projector"),
        probe.Module("model.multi_modal_projector", side="input"),
        probe.Module("model.language_model.layers.2.mlp", at="image"),
    ],
    ids=repr,
)
def test_a_read_gets_what_the_edit_of_the_same_address_leaves(case: Case, read: probe.Read) -> None:
    before = case.model.run(case.answer, read)[read].data
    after = case.model.run(case.answer, read, edits=edit.scale(read, -2.0))[read].data
    assert torch.equal(after, -2.0 * before)
    zeroed = case.model.run(case.answer, [read], edits=[edit.scale(read, -2.0), edit.zero(read)])[read].data
    assert torch.equal(zeroed, torch.zeros_like(before))


def test_a_read_of_other_positions_is_what_it_was(case: Case) -> None:
    read = probe.Hidden(2, at=("image", "question"))
    before, after = (case.model.run(case.answer, read, edits=edits) for edits in ([], [edit.zero(probe.Hidden(2, at="image"))]))
    assert torch.equal(after.hidden("question").data, before.hidden("question").data)
    assert float(after.hidden("image").data.abs().max()) == 0


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", ["all", (0, 3)])
def test_blocked_keys_get_no_weight_and_the_others_all_of_it(case: Case, kernel: str, heads: Any) -> None:
    case.hf.set_attn_implementation(kernel)
    try:
        query, key = case.at("answer"), case.at("image")
        rows = probe.Attention("all", query="answer", key=None)
        trace = case.model.run(case.answer, [rows, probe.Logits()], edits=edit.block(probe.Attention(2, "answer", "image", heads)))
        plain = case.model.run(case.answer, rows).attention(layer=2).data[0]
        weights = trace.attention(layer=2).data[0]
        chosen = list(range(HEADS)) if heads == "all" else list(heads)
        assert float(weights[chosen][:, :, key].max()) == 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), rtol=0, atol=1e-6)
        kept = plain[chosen].clone()
        kept[:, :, key] = 0
        torch.testing.assert_close(weights[chosen], kept / kept.sum(-1, keepdim=True), rtol=0, atol=1e-6)
        rest = [head for head in range(HEADS) if head not in chosen]
        assert torch.equal(weights[rest], plain[rest])

        def by_hand(call: dict[str, Any]) -> None:
            """The causal mask written by hand, without the blocked keys."""
            length = call["query"].shape[2]
            mask = torch.ones(length, length).tril().bool().expand(1, HEADS, -1, -1).clone()
            for head in chosen:
                mask[0, head, torch.tensor(query)[:, None], torch.tensor(key)] = False
            call["mask"] = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)

        theirs = hooked.logits(case.hf, case.inputs, hooked.attention_call(case.hf, f"{case.layers[2]}.self_attn", by_hand))
        # sdpa sums in another order under an additive mask than under a boolean one, or none
        assert apart(trace.logits().data, theirs) <= (0 if kernel == "eager" else 1e-5)
        before = min(query)
        assert torch.equal(trace.logits().data[:, :before], case.plain[:, :before]) or kernel == "eager"
        assert apart(trace.logits().data, case.plain) > 1e-3
    finally:
        case.hf.set_attn_implementation("sdpa")


def _value_of_rows(case: Case, layer: int, change: Callable[[Tensor], Tensor], query: list[int]) -> Any:
    """A hook on the attention's output projection: rows of eager attention, changed, times the values."""
    read = [probe.Attention(layer, query="answer"), probe.Values(layer)]
    trace = case.model.run(case.answer, read)
    rows, values = change(trace.attention(layer=layer).data[0]), trace[read[1]].data[0, 0]
    attended = rows @ values.repeat_interleave(HEADS // len(values), 0)
    joined = attended.transpose(0, 1).flatten(1)
    return hooked.module(case.hf, f"{case.layers[layer]}.self_attn.o_proj", hooked.at(query, lambda _: joined), "input")


@pytest.mark.parametrize("kind", ["zero", "scale", "replace", "add", "apply"])
def test_edited_attention_weights_are_what_the_values_are_summed_with(case: Case, kind: str) -> None:
    query, image = case.at("answer"), case.at("image")
    read = probe.Attention(2, query="answer", key="image", heads=(1, 2))
    uniform = torch.full((len(image),), 1 / len(image))
    by_query = random(2, len(query), len(image)).softmax(-1)
    ours, theirs = {
        "zero": (edit.zero(read), torch.zeros_like),
        "scale": (edit.scale(read, 0.5), lambda values: values * 0.5),
        "replace": (edit.replace(read, uniform), lambda values: uniform.expand_as(values)),
        "add": (edit.add(read, by_query), lambda values: values + by_query),
        "apply": (edit.apply(read, lambda values: values.flip(-1)), lambda values: values.flip(-1)),
    }[kind]

    def change(rows: Tensor) -> Tensor:
        rows = rows.clone()
        part = rows[1:3]
        part[..., image] = theirs(part[..., image])
        rows[1:3] = part
        return rows

    # weights @ values has another order of sums than the kernel
    case.check(ours, _value_of_rows(case, 2, change, query), tolerance=ROWS_TOLERANCE)
    before = case.model.run(case.answer, read)[read].data
    after = case.model.run(case.answer, read, edits=ours)[read].data
    assert torch.equal(after[0, 0], theirs(before[0, 0]))


def test_scaled_rows_and_blocked_keys_come_together_in_either_order(case: Case) -> None:
    """Weights follow from the mask, so they are edited behind it."""
    rows = probe.Attention(2, query="answer", key=None)
    scaled, blocked = edit.scale(rows, 0.5), edit.block(probe.Attention(2, query="answer", key="image"))
    traces = [case.model.run(case.answer, [rows, probe.Logits()], edits=edits) for edits in ([blocked, scaled], [scaled, blocked])]
    for trace in traces:
        weights = trace.attention().data
        assert float(weights[..., case.at("image")].max()) == 0
        torch.testing.assert_close(weights.sum(-1), torch.full(weights.shape[:-1], 0.5), rtol=0, atol=1e-6)
    assert torch.equal(traces[0].logits().data, traces[1].logits().data)


def test_a_hook_of_the_user_and_an_edit_both_take_effect(case: Case) -> None:
    """The user's forward hook comes first, the edit changes what it leaves."""
    image, vector = case.at("image"), random(WIDTH)
    for path, read in ((case.layers[1], probe.Hidden(2, at="image")), (f"{case.layers[1]}.mlp", probe.MLPOutput(1, at="image"))):
        with hooked.module(case.hf, path, lambda states: states * 1.5):
            hooks = hooked.hook_count(case.hf)
            after = hooked.module(case.hf, path, hooked.at(image, lambda values: values + vector), prepend=False)
            case.check(edit.add(read, vector), after)
            seen = case.model.run(case.answer, read, edits=edit.zero(read))[read]
            assert float(seen.data.abs().max()) == 0
            assert hooked.hook_count(case.hf) == hooks
    assert torch.equal(hooked.logits(case.hf, case.inputs), case.plain)


def test_edits_of_bfloat16_states_are_done_in_bfloat16() -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor, dtype="bfloat16")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    case = Case(model, model.encode(Image.fromarray(pixels), "Is there a cat?").with_answer("yes, a pottedplant."))
    image = case.at("image")
    vector = random(WIDTH)
    short = vector.bfloat16()
    hidden, heads = probe.Hidden(2, at="image"), probe.HeadOutput(1, at="image", heads=1)
    case.check(
        edit.add(hidden, vector, scale=0.5), hooked.module(hf, case.layers[1], hooked.at(image, lambda values: values + 0.5 * short))
    )
    for number in (0.3, np.float32(0.3)):
        case.check(
            edit.scale(hidden, number), hooked.module(hf, case.layers[1], hooked.at(image, lambda values, by=float(number): values * by))
        )
    case.check(edit.replace(hidden, vector), hooked.module(hf, case.layers[1], hooked.at(image, lambda values: short.expand_as(values))))
    change = hooked.at_heads(image, [1], HEADS, torch.zeros_like)
    case.check(edit.zero(heads), hooked.module(hf, f"{case.layers[1]}.self_attn.o_proj", change, "input"))
    assert model.run(case.answer, hidden, edits=edit.add(hidden, vector))[hidden].data.dtype == torch.bfloat16
    rows = model.run(case.answer, probe.Attention(2, "answer"), edits=edit.block(probe.Attention(2, "answer", "image"))).attention().data
    assert rows.dtype == torch.float32
    assert float(rows[..., image].max()) == 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), rtol=0, atol=1e-6)


def test_an_edited_run_leaves_the_model_as_it_was(case: Case) -> None:
    hooks = hooked.hook_count(case.hf)
    case.edited(edit.zero(probe.Hidden(2)), edit.block(probe.Attention(3, -1, "image")), edit.scale(probe.Attention(1, -1), 0.5))
    assert hooked.hook_count(case.hf) == hooks
    assert torch.equal(hooked.logits(case.hf, case.inputs), case.plain)
