"""Read requests: checked where they are written, merged before they run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest

import probe
from probe.errors import InvalidLayer, InvalidRead, NoAttention
from probe.tracing.modules import Modules
from probe.tracing.parts import BlockParts
from probe.tracing.reads import Attention, Hidden, LayerRead, Logits, Projected, Vision, merge
from probe.tracing.resolving import ReadPlan, Resolution, resolve, resolve_reads
from probe.tracing.sites import StateAddress

PARTS = tuple(BlockParts(attention, f"m.{block}.mlp") for block, attention in enumerate(("m.0.self_attn", None, "m.2.self_attn")))
MODULES = Modules(
    ("m.0", "m.1", "m.2"), ("m.0.self_attn", None, "m.2.self_attn"), "m.norm", "v", ("v.0", "v.1"), 9, parts=PARTS, key_value_heads=2
)


def _layers(plan: ReadPlan) -> list[int]:
    return sorted(address.layer for address in plan.states)


@pytest.mark.parametrize("layers", [[], "every", [1.5], [True], None])
def test_layers_that_are_no_numbers_are_refused(layers: object) -> None:
    with pytest.raises(InvalidRead, match=r'Hidden\(layers=.*"all"'):
        Hidden(layers=layers)  # type: ignore[arg-type]


def test_a_place_is_a_name_a_span_or_a_position() -> None:
    assert Hidden(layers=3, at="image").at == ("image",)
    assert Hidden(layers=range(2, 4), at=[-1, -2]) == Hidden(layers=(2, 3), at=(-1, -2))
    with pytest.raises(InvalidRead, match="a position is"):
        Hidden(layers=3, at=2.5)  # type: ignore[arg-type]


def test_heads_are_kept_or_averaged() -> None:
    with pytest.raises(InvalidRead, match='"all" or "mean"'):
        Attention(layers="all", query="answer", heads="max")  # type: ignore[arg-type]


def test_equal_places_share_one_read_over_the_union_of_their_layers() -> None:
    merged = merge(
        [Hidden(range(7, 10), "image"), Hidden([9, 11], ("image", "class")), Vision(-2), Vision(-1), Logits("answer"), Logits("answer")]
    )
    assert merged == (Hidden((7, 8, 9, 11), "image"), Hidden((9, 11), "class"), Vision((-2, -1)), Logits("answer"))


def test_a_layer_beyond_the_model_names_the_range() -> None:
    with pytest.raises(
        InvalidLayer, match=r"Layer 40 was asked for, to read hidden states, but this model has layers 0 \(embeddings\) to 3\."
    ):
        resolve_reads([Hidden([40])], MODULES, ())
    with pytest.raises(InvalidLayer, match=r"Layer -4 was asked for, to read vision states, .* to 2"):
        resolve_reads([Vision(-4)], MODULES, ())


def test_attention_of_a_block_without_it_names_those_that_have_it() -> None:
    with pytest.raises(NoAttention, match=r"Block 1 has no attention that can be read. Blocks with attention: 0, 2"):
        resolve_reads([Attention([1], query=-1)], MODULES, ())
    assert sorted(resolve_reads([Attention("all", query=-1)], MODULES, ()).attention) == [0, 2]


def test_hidden_states_count_one_more_than_blocks() -> None:
    assert _layers(resolve_reads([Hidden("all")], MODULES, ())) == [0, 1, 2, 3]
    assert _layers(resolve_reads([Hidden(-1)], MODULES, ())) == [3]


def test_what_a_family_cannot_give_is_refused_with_its_reason() -> None:
    modules = replace(MODULES, unreadable={"Vision": "there is no tower. Read Projected() instead."})
    with pytest.raises(InvalidRead, match=r"Vision\(\) cannot be read from this family: there is no tower\. Read Projected\(\) instead\."):
        resolve_reads([Hidden(1), Vision(-1)], modules, ())


def test_only_reads_are_merged() -> None:
    with pytest.raises(InvalidRead, match="Not a read: 'image'"):
        probe.merge(["image"])  # type: ignore[list-item]


def test_reads_of_one_position_are_resolved_once() -> None:
    plan = resolve_reads([Hidden([0, 1], "image"), Projected(), Hidden(0, "image"), Attention("all", -1), Attention(0, -1)], MODULES, ())
    assert plan.states == {StateAddress("Hidden", 0): ["image"], StateAddress("Hidden", 1): ["image"]}
    assert {block: len(selections) for block, selections in plan.attention.items()} == {0: 1, 2: 1}
    assert plan.hidden_reads == (("image",),)
    assert plan.layers_by_position == {"image": {0, 1}}  # Projected reads layer 0 without asking for it


@dataclass(frozen=True)
class BlockInput(LayerRead):
    """What a decoder block takes: a kind of read that somebody adds."""

    residual: Literal["before", "after"] = "before"


def test_a_new_kind_of_read_is_a_class_and_a_resolver() -> None:
    reads = [BlockInput([0, 1]), BlockInput(2), BlockInput(0, "after")]
    assert merge(reads) == (BlockInput((0, 1, 2)), BlockInput((0,), "after"))
    with pytest.raises(InvalidRead, match="Register a resolver for BlockInput"):
        resolve_reads(reads, MODULES, ())

    @resolve.register(BlockInput)
    def _(read: BlockInput, resolution: Resolution) -> None:
        resolve(Hidden(read.layers), resolution)

    assert _layers(resolve_reads(reads, MODULES, ())) == [0, 1, 2]
