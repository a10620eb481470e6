"""How far reads and edits of the parts of a block are from torch hooks on plain Hugging Face, in each family's tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import probe
from probe.tracing.attention import first_tensor, with_first_tensor
from tests import families

AT = (-1, 2)
"""The positions that are edited: the last one, and one before it."""


@dataclass(frozen=True)
class EditParity:
    """Largest absolute differences of one family from plain Hugging Face; None: the family does not give it.

    Attributes:
        parts: AttentionOutput, MLPOutput and HeadOutput of every block, from torch hooks.
        call: queries, keys and values of every block, from the arguments of eager attention.
        edits: logits under zero, replace, add, scale and apply of hidden states and parts, from torch hooks; name -> difference.
        moved: how far these edits move the logits, the least of all: an edit that does nothing would prove nothing.
        block: logits under blocked keys, from eager attention with the mask written by hand.
        block_sdpa: the same under the default kernel, beyond what the kernels differ by themselves.
        weights: logits under scaled attention weights, from eager attention whose weights are scaled by hand.
        restored: logits of a plain forward afterwards, from those before.
    """

    parts: float | None
    call: float | None
    edits: Mapping[str, float]
    moved: float
    block: float | None
    block_sdpa: float | None
    weights: float | None
    restored: float


@cache
def measure(name: str) -> EditParity:
    """Read and edit everything that a family gives, and compare it."""
    hf, inputs = families.build(name)
    model = probe.load(model=hf)
    plain = _logits(hf, inputs)
    edits, moved = _edits(model, inputs, plain)
    parts = _parts(model, inputs)
    call = block = block_sdpa = weights = None
    blocked_moves, restored = 1.0, _apart(_logits(hf, inputs), plain)
    number = _last_attention(model, inputs)
    if number is not None:
        rows = probe.Attention([number], query=-1, key=(1, -3, -2))
        blocked, half = [probe.edit.block(rows)], [probe.edit.scale(probe.Attention([number], query=-1), 0.5)]
        ours_sdpa = _edited(model, inputs, blocked)
        restored = _apart(_logits(hf, inputs), plain)
        hf.set_attn_implementation("eager")
        eager = _logits(hf, inputs)
        call = _call(model, inputs)
        with _eager(hf, model.modules.attention[number], _block):
            theirs = _logits(hf, inputs)
        block, blocked_moves = _apart(_edited(model, inputs, blocked), theirs), _apart(theirs, eager)
        block_sdpa = max(0.0, _apart(ours_sdpa, theirs) - _apart(plain, eager))
        with _eager(hf, model.modules.attention[number], _halve):
            weights = _apart(_edited(model, inputs, half), _logits(hf, inputs))
    return EditParity(parts, call, edits, min(moved, blocked_moves), block, block_sdpa, weights, restored)


def _last_attention(model: probe.Probe, inputs: Mapping[str, Any]) -> int | None:
    """The last block whose attention is over the sequence alone, and calls transformers' interface."""
    modules = model.modules
    blocks = [block for block, path in enumerate(modules.attention) if path and block not in modules.attention_without_interface]
    if not blocks:
        return None
    trace = model.run(inputs, probe.Attention(blocks, query=-1))
    own = [block for block in blocks if trace.attention(layer=block).shape["key"] == len(trace.tokens[0])]
    return own[-1] if own else None


@torch.no_grad()
def _logits(hf: Any, inputs: Mapping[str, Any]) -> Tensor:
    logits: Tensor = hf(**inputs, use_cache=False).logits
    return logits


def _edited(model: probe.Probe, inputs: Mapping[str, Any], edits: list[probe.edit.Edit]) -> Tensor:
    return model.run(inputs, probe.Logits(), edits=edits).logits().data


def _apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return float((ours.double() - theirs.double()).abs().nan_to_num(0.0).max())


def _parts(model: probe.Probe, inputs: Mapping[str, Any]) -> float | None:
    """Every part of every block, against forward hooks."""
    kept: dict[tuple[str, int], Tensor] = {}
    handles = []
    reads: list[probe.Read] = []
    for kind, attribute, side in _KINDS:
        if kind.__name__ in model.modules.unreadable:
            continue
        paths = {block: path for block, part in enumerate(model.modules.parts) if (path := getattr(part, attribute)) is not None}
        for block, path in paths.items():
            handles.append(_register(model.model, path, side, lambda tensor, key=(kind.__name__, block): kept.__setitem__(key, tensor)))
        reads += [kind(list(paths))] if paths else []
    _logits(model.model, inputs)
    for handle in handles:
        handle.remove()
    if not reads:
        return None
    trace = model.run(inputs, reads)
    differences = []
    for read in reads:
        for block in read.layers:  # type: ignore[attr-defined]
            ours = trace[type(read)([block])].data[0]  # type: ignore[call-arg]
            theirs = kept[type(read).__name__, block]
            if ours.ndim == 4:
                ours = ours.transpose(1, 2)
            differences.append(_apart(ours.reshape(-1), theirs.reshape(-1)))
    return max(differences)


_KINDS: tuple[tuple[Any, str, str], ...] = (
    (probe.AttentionOutput, "attention", "output"),
    (probe.MLPOutput, "mlp", "output"),
    (probe.HeadOutput, "projection", "input"),
)


def _register(hf: Any, path: str, side: str, act: Callable[[Tensor], Tensor | None]) -> Any:
    """A hook that passes the tensor to `act`, and puts what it returns in its place."""
    module = hf.get_submodule(path)
    if side == "output":

        def after(_: Any, __: Any, output: Any) -> Any:
            changed = act(first_tensor(output))
            return None if changed is None else with_first_tensor(output, changed)

        # Ahead of the hooks with which transformers records states: an edit is in what they record.
        return module.register_forward_hook(after, prepend=True)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = act(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        first = next(iter(kwargs))
        changed = act(kwargs[first])
        return None if changed is None else (args, {**kwargs, first: changed})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _edits(model: probe.Probe, inputs: Mapping[str, Any], plain: Tensor) -> tuple[dict[str, float], float]:
    """The logits under each edit of each kind of state at its last block, against a hook that does the same."""
    differences, moved = {}, []
    positions: list[int] = [model.run(inputs, probe.Hidden(0)).tokens[0].resolve(at)[0] for at in AT]
    for name, read, path, side, heads in _addresses(model):
        width = model.run(inputs, read)[read].shape["feature"]
        vector = torch.linspace(-1, 1, width) ** 3
        for edit, change in (
            (probe.edit.zero(read), lambda values: values * 0),
            (probe.edit.replace(read, vector), lambda values, vector=vector: vector.expand_as(values)),
            (probe.edit.add(read, vector, scale=2.0), lambda values, vector=vector: values + 2.0 * vector),
            (probe.edit.scale(read, 3.0), lambda values: values * 3.0),
            (probe.edit.apply(read, lambda values: values.flip(-1)), lambda values: values.flip(-1)),
        ):
            handle = _register(model.model, path, side, _at(positions, change, heads, model.modules.axes))
            theirs = _logits(model.model, inputs)
            handle.remove()
            ours = _edited(model, inputs, [edit])
            differences[f"{edit.name} {name}"] = _apart(ours, theirs)
            moved.append(_apart(ours, plain))
    for name, read, path, side, change in _image_addresses(model, inputs):
        handle = _register(model.model, path, side, change)
        theirs = _logits(model.model, inputs)
        handle.remove()
        ours = _edited(model, inputs, [probe.edit.scale(read, 0.5)])
        differences[f"scale {name}"] = _apart(ours, theirs)
        moved.append(_apart(ours, plain))
    return differences, min(moved)


def _image_addresses(model: probe.Probe, inputs: Mapping[str, Any]) -> Iterator[tuple[str, Any, str, str, Callable[[Tensor], Tensor]]]:
    """(name, read, module path, side, what a hook does that halves it)."""
    modules = model.modules
    if modules.vision_blocks and "Vision" not in modules.unreadable:
        layout = model.run(inputs, probe.Vision(1)).vision_layout

        def halve_patches(tensor: Tensor) -> Tensor:
            flat = tensor.clone().flatten(1, 2) if tensor.ndim == 4 else tensor.clone()
            patches = layout.patch_range(flat.shape[-2])
            flat[..., patches.start : patches.stop, :] *= 0.5
            return flat.reshape(tensor.shape)

        yield "Vision", probe.Vision(1), modules.vision_blocks[0], "output", halve_patches
    if "Projected" not in modules.unreadable:
        image = list(model.run(inputs, probe.Hidden(0)).tokens[0].span("image").positions)

        def halve_image(tensor: Tensor) -> Tensor:
            tensor = tensor.clone()
            tensor[:, image] *= 0.5
            return tensor

        yield "Projected", probe.Projected(), modules.layers[0], "input", halve_image


def _addresses(model: probe.Probe) -> Iterator[tuple[str, Any, str, str, tuple[int, int] | None]]:
    """(name, read, module path, side, (head, number of heads)) of what is edited."""
    modules = model.modules
    middle = max(1, len(modules.layers) // 2)
    yield "Hidden", probe.Hidden(middle, at=AT), modules.layers[middle - 1], "output", None
    for kind, attribute, side in _KINDS:
        blocks = [block for block, part in enumerate(modules.parts) if getattr(part, attribute) is not None]
        if kind.__name__ in modules.unreadable or not blocks:
            continue
        block = blocks[0]
        path = getattr(modules.parts[block], attribute)
        if kind is probe.HeadOutput:
            count = modules.parts[block].heads
            yield kind.__name__, kind(block, at=AT, heads=count - 1), path, side, (count - 1, count)
        else:
            yield kind.__name__, kind(block, at=AT), path, side, None


def _at(
    positions: list[int], change: Callable[[Tensor], Tensor], heads: tuple[int, int] | None, axes: tuple[str, ...]
) -> Callable[[Tensor], Tensor]:
    """A change at these positions of a batch of one, of one head if one is named."""

    def act(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if heads is not None:
            head, count = heads
            by_head = tensor.reshape(-1, count, tensor.shape[-1] // count) if tensor.ndim < 4 else tensor.reshape(-1, *tensor.shape[-2:])
            by_head[positions, head] = change(by_head[positions, head])
            return by_head.reshape(tensor.shape)
        if tensor.ndim == 4 and "stream" in axes:
            order = [axes.index(axis) for axis in ("batch", "token", "stream", "feature")]
            flat = tensor.permute(order).flatten(2)
            flat[:, positions] = change(flat[:, positions])
            apart = flat.unflatten(2, (tensor.shape[axes.index("stream")], -1))
            return apart.permute([("batch", "token", "stream", "feature").index(axis) for axis in axes])
        flat = tensor.view(-1, tensor.shape[-1])
        flat[positions] = change(flat[positions])
        return tensor

    return act


@contextmanager
def _eager(hf: Any, path: str | None, change: Callable[..., Any]) -> Iterator[None]:
    """Eager attention changed by hand in one module."""
    module = hf.get_submodule(path)

    def interface(_: str, default: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(called: Any, *args: Any, **kwargs: Any) -> Any:
            return change(default, called, *args, **kwargs) if called is module else default(called, *args, **kwargs)

        return wrapped

    ALL_ATTENTION_FUNCTIONS.get_interface = interface
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS.get_interface


def _block(
    original: Callable[..., Any], module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *args: Any, **kwargs: Any
) -> Any:
    mask = mask.expand(query.shape[0], mask.shape[1], query.shape[2], -1).clone()
    mask[:, :, -1, [1, -3, -2]] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return original(module, query, key, value, mask, *args, **kwargs)


def _halve(original: Callable[..., Any], module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    output, weights = original(module, query, key, value, *args, **kwargs)
    output = output.clone()
    output[:, -1] = output[:, -1] * 0.5
    return output, weights


def _call(model: probe.Probe, inputs: Mapping[str, Any]) -> float:
    """Queries, keys and values of every block with attention, against the arguments of eager attention."""
    differences = []
    for block, path in enumerate(model.modules.attention):
        if path is None:
            continue
        kept: list[tuple[Tensor, Tensor, Tensor]] = []

        def keep(
            original: Callable[..., Any],
            module: Any,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *args: Any,
            kept: Any = kept,
            **kwargs: Any,
        ) -> Any:
            kept.append((query, key, value))
            return original(module, query, key, value, *args, **kwargs)

        with _eager(model.model, path, keep):
            _logits(model.model, inputs)
        if not kept or kept[-1][1].shape[2] != kept[-1][0].shape[2]:  # keys of its own, not the sequence's
            continue
        reads = [kind([block]) for kind in (probe.Queries, probe.Keys, probe.Values)]
        trace = model.run(inputs, reads)
        differences += [_apart(trace[read].data[0], theirs) for read, theirs in zip(reads, kept[-1], strict=True)]
    return max(differences, default=0.0)


@cache
def tower_rows(name: str) -> float | str:
    """Attention rows of every block of the tower, under eager attention, from the weights that its calls return; or why they cannot be read."""
    hf, inputs = families.build(name)
    model = probe.load(model=hf)
    hf.set_attn_implementation("eager")
    try:
        trace = model.run(inputs, probe.VisionAttention("all"))
    except probe.ProbeError as error:
        return str(error)
    differences = []
    for block, path in enumerate(model.modules.vision_attention):
        kept: list[Tensor] = []

        def keep(original: Callable[..., Any], module: Any, *args: Any, kept: Any = kept, **kwargs: Any) -> Any:
            output, weights = original(module, *args, **kwargs)
            kept.append(weights)
            return output, weights

        with _eager(hf, path, keep):
            _logits(hf, inputs)
        if kept:  # Kosmos-2.5 keeps a list of attention functions of its own
            differences.append(_apart(trace[probe.VisionAttention(block)].data[0], kept[0]))
    return max(differences, default=0.0)
