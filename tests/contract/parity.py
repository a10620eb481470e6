"""How far each family's reads are from plain Hugging Face's tensors, on its tiny model: what the contract asserts and the table prints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

import probe
from tests import families

_QUERIES = [-1, -2]

NOT_THE_FEATURES = {
    "blip-2": "the decoder adds positions before its first block",
    "granite4_vision": "the image is added before several blocks, none of it as tokens of its own",
    "granite_docling": "the decoder multiplies its embeddings before the first block",
    "llama4": "a projector follows `get_image_features`",
    "molmo2": "the features are added to the image tokens' own embeddings",
}
"""Families whose first block does not take what `get_image_features` returns, and why."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences of one family; None: the read does not exist, or there is nothing to compare it with.

    Attributes:
        hidden: every layer's hidden states, of the same kernel.
        formula: attention rows @ values, from the attention call's own output (law 5), relative to a head's largest value.
        rows: attention rows, from a separate eager forward.
        vision: every state of the tower.
        projected: image tokens, from `get_image_features`.
        logits: of every position.
        seen: how far the last hidden states move when the image is turned into its negative: an image that the model does not see would
            prove nothing.
        grid: whether the family's backbone says where image tokens lie; "none" where it says that they lie nowhere.
        unreadable: what cannot be read, and why.
        report: what `inspect()` prints.
    """

    family: str
    model: str
    hidden: float
    formula: float
    rows: float
    vision: float | None
    projected: float | None
    logits: float
    seen: float
    grid: Literal["yes", "no", "none"]
    unreadable: Mapping[str, str]
    report: str


@cache
def measure(name: str) -> Parity:
    """Read everything that a family gives, and compare it."""
    hf, inputs = families.build(name)
    model = probe.load(model=hf)
    missing = model.modules.unreadable
    trace = model.run(inputs, [probe.Hidden("all"), probe.Attention("all", query=_QUERIES), probe.Logits(None)])
    plain = _plain(hf, inputs, output_hidden_states=True)
    return Parity(
        family=name,
        model=type(hf).__name__,
        hidden=_hidden(model, trace, _recorded(hf, inputs, plain, "hidden_states")),
        logits=_apart(trace.logits(None).data, plain.logits),
        vision=_vision(model, inputs) if model.modules.vision_blocks else None,
        projected=None if "Projected" in missing else _projected(model, inputs),
        formula=max(trace.row_differences.values()),
        seen=_seen(model, trace, inputs),
        rows=_rows(model, trace, inputs),  # the last: it leaves the model under eager attention
        grid="none" if model.backbone.no_grid_reason else "yes" if model.backbone.has_grid else "no",
        unreadable=missing,
        report=str(model.inspect()),
    )


def hidden_difference(model: probe.Probe, trace: probe.Trace, inputs: Mapping[str, Any]) -> float:
    """How far every hidden state that was read is from plain Hugging Face's of the same inputs."""
    output = _plain(model.model, inputs, output_hidden_states=True)
    return _hidden(model, trace, _recorded(model.model, inputs, output, "hidden_states"))


def _plain(hf: Any, inputs: Mapping[str, Any], **outputs: bool) -> Any:
    with torch.no_grad():
        return hf(**inputs, **outputs, use_cache=False)


def _recorded(hf: Any, inputs: Mapping[str, Any], output: Any, what: str) -> tuple[Tensor, ...]:
    """Where families put their decoder's states; BLIP returns the tower's alone, so its decoder is asked."""
    if hasattr(hf, "text_decoder"):
        return tuple(_asked(hf, "text_decoder", inputs, f"output_{what}")[what])
    inner = output.get("language_model_outputs", output)
    return tuple(inner.get(f"decoder_{what}") or inner[what])


def _asked(hf: Any, path: str, inputs: Mapping[str, Any], what: str) -> Any:
    """What a part of the model returns when it is asked for more, on what the whole model gives it first."""
    given: list[Any] = []
    part = hf.get_submodule(path)
    hook = part.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    _plain(hf, inputs)
    hook.remove()
    args, kwargs = given[0]
    with torch.no_grad():
        return part(*args, **{**kwargs, what: True, "return_dict": True})


def _hidden(model: probe.Probe, trace: probe.Trace, theirs: tuple[Tensor, ...]) -> float:
    assert len(theirs) == len(model.modules.layers) + 1
    axes = model.modules.axes
    order = [axes.index(axis) for axis in ("batch", "token", "stream", "feature") if axis in axes]
    flat = [state.permute(order).flatten(2) if state.ndim == len(axes) else state for state in theirs]
    return max(_apart(trace.hidden(layer=layer).data, state) for layer, state in enumerate(flat))


def _rows(model: probe.Probe, trace: probe.Trace, inputs: Mapping[str, Any]) -> float:
    model.model.set_attn_implementation("eager")
    output = _plain(model.model, inputs, output_attentions=True)
    theirs = _recorded(model.model, inputs, output, "attentions")
    if model.family == "t5gemma2":  # one softmax over both, which Hugging Face returns in two parts
        theirs = tuple(torch.cat(pair, dim=-1) for pair in zip(theirs, output.cross_attentions, strict=True))
    blocks = [block for block, path in enumerate(model.modules.attention) if path is not None]
    pairs = zip(blocks, theirs, strict=True)
    return max(_apart(trace.attention(layer=block).data, weights[:, :, _QUERIES]) for block, weights in pairs)


def _vision(model: probe.Probe, inputs: Mapping[str, Any]) -> float:
    """Against what PyTorch hooks see at the blocks and, where the tower records its states, against these: all but the last, in whose place
    some towers have their own output."""
    returned: list[Any] = []
    hooks = [
        model.model.get_submodule(path).register_forward_hook(lambda *call: returned.append(call[-1]))
        for path in model.modules.vision_blocks
    ]
    states = _asked(model.model, model.modules.vision, inputs, "output_hidden_states").get("hidden_states") or ()
    for hook in hooks:
        hook.remove()
    blocks = [value[0] if isinstance(value, tuple) else value for value in returned[: len(hooks)]]
    trace = model.run(inputs, probe.Vision("all"))
    pairs = list(enumerate(blocks, start=1)) + (list(enumerate(states))[:-1] if len(states) == len(blocks) + 1 else [])
    return max(_apart(*_patches(trace.vision(layer=layer).data, trace.vision_layout, state)) for layer, state in pairs)


def _patches(ours: Tensor, place: Any, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Theirs laid out as a trace lays them out: class tokens left out, the rows of a tower of windows one after the other."""
    theirs = theirs.flatten(1, 2) if theirs.ndim == 4 else theirs if theirs.ndim == 3 else theirs[None]
    return ours, place.of_patches(theirs)


def _seen(model: probe.Probe, trace: probe.Trace, inputs: Mapping[str, Any]) -> float:
    negative = {name: -value if name.startswith("pixel_values") else value for name, value in inputs.items()}
    if "flattened_patches" in inputs:  # which begin with their row and column
        patches = inputs["flattened_patches"]
        negative["flattened_patches"] = torch.cat([patches[..., :2], -patches[..., 2:]], dim=-1)
    return _apart(model.run(negative, probe.Hidden(-1)).hidden(layer=-1).data, trace.hidden(layer=-1).data)


def _projected(model: probe.Probe, inputs: Mapping[str, Any]) -> float | None:
    ours = model.run(inputs, probe.Projected()).projected().data[0]
    if model.family in NOT_THE_FEATURES:
        return None
    owner = next((part for part in model.model.modules() if hasattr(part, "get_image_features")), None)
    if owner is None:
        return None
    names = {"pixel_values_images": "pixel_values"}
    known = {
        parameter
        for part in model.model.modules()
        if hasattr(part, "get_image_features")
        for parameter in inspect.signature(part.get_image_features).parameters
    }
    given = {names.get(key, key): value for key, value in inputs.items() if names.get(key, key) in known}
    with torch.no_grad():
        output = owner.get_image_features(**given, return_dict=True)
    features = output.last_hidden_state if output.pooler_output is None else output.pooler_output
    theirs = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
    return _apart(ours, theirs.flatten(0, -2))


def _apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return float((ours.double() - theirs.double()).abs().max())
