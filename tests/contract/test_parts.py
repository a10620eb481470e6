"""The parts of every family's decoder blocks, against what plain PyTorch hooks see: added up they are the block's output.

Differences are the largest absolute one, over the output's largest value. A block with one part of each kind adds them up as we do: 0.
One with a third part is added up in another order than ours, and one with factors multiplies before or after: a few roundings of float32, so
1e-6. Factors that the tiny models have at 1 are set to another value first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import probe
from probe.backbones import Backbone, backbone_for
from probe.tracing.modules import Modules, discover
from tests import families
from tests.families.daily import daily

TOLERANCE = 1e-6

IMAGE_BETWEEN_BLOCKS = [
    *("cohere_compass", "cosmos3_omni", "granite4_vision", "granite_docling", "idefics"),
    *("qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe"),
]
NORMED_SUMS = ["blip", "florence2", "git"]
STREAMS = ["gemma3n", "glm5_next", "hy_v4_vl", "qwen4_exp"]
NOT_SUMS = {*IMAGE_BETWEEN_BLOCKS, *NORMED_SUMS, *STREAMS, "inkling2"}

OTHERS = {
    "blip": {"crossattention.output.dense"},
    "florence2": {"encoder_attn"},
    "gemma4": {"post_per_layer_input_norm"},
    "glm5_next": {"self_attn"},
    "lfm2_vl": {"conv"},
    "lfm3_vl": {"post_operator_norm"},
    "minicpm_ocr": {"linear_attn"},
    "minicpmv4_6": {"linear_attn"},
    "minicpmv4_7": {"linear_attn"},
    "nemotron_h_omni": {"mixer"},
    "pix2struct": {"encoder_decoder_attention.attention"},
    "pp_formulanet": {"encoder_attn"},
    "qwen3_5": {"linear_attn"},
    "qwen3_5_moe": {"linear_attn"},
    "qwen4_exp": {"linear_attn"},
    "udop": {"layer.1.EncDecAttention"},
    "vision-encoder-decoder": {"encoder_attn"},
}
"""What blocks add beside attention and MLP: linear mixers, cross-attention, Gemma 4's inputs by layer."""

NOT_THROUGH_THE_INTERFACE = {"blip", "git"}
MIXED_BEFORE_THE_NORM = {"glm5_next", "hy_v4_vl", "inkling2", "qwen4_exp"}
WITHOUT_FINAL_NORM = {*NORMED_SUMS, "qwen4_exp"}


@dataclass
class Seen:
    """One forward of a tiny model: what modules took and gave, by path.

    Attributes:
        zeroed: what attention gave in a second forward, in which every output projection gave 0.
    """

    model: Any
    modules: Modules
    backbone: Backbone
    taken: dict[str, Tensor] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    zeroed: dict[str, Tensor] = field(default_factory=dict)


@cache
def seen(name: str) -> Seen:
    hf, inputs = families.build(name)
    _scale(hf.eval())
    found = Seen(hf, discover(hf), backbone_for(hf.config))
    parts = found.modules.parts
    written = [path for part in parts for path in (part.attention, part.mlp, part.projection, *part.others) if path]
    hooks = [_hook(found, path, found.given) for path in {*found.modules.layers, found.modules.last, *written}]
    _forward(found, inputs)
    for hook in hooks:
        hook.remove()
    hooks = [hf.get_submodule(part.projection).register_forward_hook(_zero) for part in parts if part.projection]
    hooks += [_hook(found, part.attention, found.zeroed) for part in parts if part.attention]
    _forward(found, inputs)
    for hook in hooks:
        hook.remove()
    return found


def _scale(hf: nn.Module) -> None:
    for module in hf.modules():
        if hasattr(module, "residual_multiplier"):
            module.residual_multiplier = 0.5
        if hasattr(module, "layer_scalar"):
            module.layer_scalar.fill_(0.75)


def _hook(found: Seen, path: str, given: dict[str, Tensor]) -> Any:
    """Record a module's first call; blocks and projections are called with one tensor of states."""

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        taken = args[0] if args else kwargs.get("hidden_states")
        if isinstance(taken, Tensor):
            found.taken.setdefault(path, taken.clone())
        given.setdefault(path, _first(output).clone())

    return found.model.get_submodule(path).register_forward_hook(record, with_kwargs=True)


def _zero(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else _first(output[0])


def _forward(found: Seen, inputs: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        found.model(**found.backbone.forward_inputs(found.model, inputs), use_cache=False)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _sum_apart(found: Seen, number: int) -> float:
    """How far the sum of a block's parts is from its output."""
    path, parts = found.modules.layers[number], found.modules.parts[number]
    residual, output = found.taken[path], found.given[path]
    of_attention, of_mlp, of_residual = found.backbone.residual_factors(found.model.get_submodule(path))
    added = [(part, of_attention) for part in (parts.attention, *parts.others)] + [(parts.mlp, of_mlp)]
    outputs = [(found.given[part], factor) for part, factor in added if part is not None]
    if any(value.numel() != residual.numel() for value, _ in outputs):
        return float("inf")
    return _apart(sum((value.view_as(residual) * factor for value, factor in outputs), residual * of_residual), output)


def _largest_difference(found: Seen) -> float:
    """Of sums from outputs, and of what each block takes from what the one before it gave."""
    layers = found.modules.layers
    passed_on = [_apart(found.taken[later], found.given[path]) for path, later in pairwise(layers)]
    return max(*(_sum_apart(found, number) for number in range(len(layers))), *passed_on)


def _inner(found: Seen, path: str, number: int) -> str:
    return path.removeprefix(f"{found.modules.layers[number]}.")


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_a_block_adds_its_parts_to_what_it_takes(name: str) -> None:
    found = seen(name)
    if found.modules.sum_reason:
        assert _largest_difference(found) > 1e-3
    else:
        assert _largest_difference(found) < TOLERANCE


@pytest.mark.parametrize("name", IMAGE_BETWEEN_BLOCKS)
def test_where_the_image_is_added_between_blocks_each_block_is_a_sum(name: str) -> None:
    found = seen(name)
    assert max(_sum_apart(found, number) for number in range(len(found.modules.layers))) < TOLERANCE


def test_families_whose_states_are_not_sums_are_listed_here() -> None:
    assert {name for name in families.FAMILIES if seen(name).modules.sum_reason} == NOT_SUMS


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_every_block_has_its_parts(name: str) -> None:
    found = seen(name)
    assert len(found.modules.parts) == len(found.modules.layers)
    for parts, attention in zip(found.modules.parts, found.modules.attention, strict=True):
        assert {part is None for part in (parts.attention, parts.projection, parts.heads or None)} == {attention is None}
        if name == "nemotron_h_omni":  # a block is attention, a linear mixer or an MLP
            assert len([part for part in (parts.attention, parts.mlp, *parts.others) if part]) == 1
        else:
            assert parts.mlp is not None


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_what_else_blocks_add_is_listed_here(name: str) -> None:
    found = seen(name)
    others = {_inner(found, path, number) for number, parts in enumerate(found.modules.parts) for path in parts.others}
    assert others == OTHERS.get(name, set())


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_the_projection_takes_the_heads_and_gives_the_attention(name: str) -> None:
    found = seen(name)
    blocks = [number for number, parts in enumerate(found.modules.parts) if parts.attention is not None]
    trace = probe.load(model=found.model).run(families.build(name)[1], probe.Attention(blocks, query=-1, heads="all"))
    for number in blocks:
        parts = found.modules.parts[number]
        assert found.taken[parts.projection].shape[-1] % parts.heads == 0
        assert trace.attention(layer=number).shape["head"] == parts.heads
        assert bool(found.given[parts.attention].any())
        assert not bool(found.zeroed[parts.attention].any())


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_the_final_norm_of_the_last_block_is_the_last_hidden_state(name: str) -> None:
    """`last` gives Hugging Face's last hidden state (test_discovered_families.py). Same module, same input: 0."""
    found = seen(name)
    assert (found.modules.final_norm is None) == (name in WITHOUT_FINAL_NORM)
    if not found.backbone.last_is_normed:
        return
    state = found.given[found.modules.layers[-1]]
    with torch.no_grad():
        normed = state if found.modules.final_norm is None else found.model.get_submodule(found.modules.final_norm)(state)
    apart = _apart(normed, found.given[found.modules.last])
    assert apart > 1e-3 if name in MIXED_BEFORE_THE_NORM else apart == 0


def test_families_whose_attention_does_not_go_through_the_interface_are_listed_here() -> None:
    missing = {name for name in families.FAMILIES if "Queries" in seen(name).modules.unreadable}
    assert missing == NOT_THROUGH_THE_INTERFACE
