"""Checks of the parts of a block, and of edits, against plain PyTorch hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from probe.inputs.encoding import Answer
from probe.tracing import edits
from probe.tracing.attention import first_tensor, with_first_tensor
from probe.tracing.reads import Attention, AttentionOutput, HeadOutput, Logits, MLPOutput, Read, StateRead
from probe.tracing.trace import Trace
from probe.verification.report import Check

if TYPE_CHECKING:
    from probe.model import Probe

_SAME = "PyTorch hooks on the same modules"


def part_checks(model: Probe, answered: Answer) -> Iterator[Check]:
    """What attention, heads and MLP give, and the logits under an edit of each, from hooks; and blocked attention."""
    paths = _paths(model)
    kept = _hooked_parts(model, answered, paths)
    trace = model.run(answered, [read(list(of_blocks)) for read, of_blocks in paths.items()]) if paths else None
    for read, of_blocks in paths.items():
        assert trace is not None
        difference = max(_apart(_flat(trace, read(block)), kept[read, block]) for block in of_blocks)
        yield Check(f"{read.__name__}, every block that has it", difference, 0.0, _SAME)
        block, path = next(iter(of_blocks.items()))
        ours = model.run(answered, Logits(at=None), edits=edits.scale(read(block), 0.5))[Logits(at=None)].data
        theirs = _logits(model, answered, path, "input" if read is HeadOutput else "output", lambda states: states * 0.5)
        yield Check(f"Logits under an edit of {read.__name__}", _apart(ours, theirs), 0.0, _SAME)
    yield from _block_checks(model, answered)


def _block_checks(model: Probe, answered: Answer) -> Iterator[Check]:
    blocks = [
        block for block, path in enumerate(model.modules.attention) if path and block not in model.modules.attention_without_interface
    ]
    image = answered.tokens.spans.get("image")
    if not blocks or image is None or "Queries" in model.modules.unreadable:
        return
    rows = Attention(blocks, query="answer")
    trace = model.run(answered, rows)
    own = [block for block in blocks if trace.attention(layer=block).shape["key"] == len(answered.tokens)]
    if own:
        blocked = model.run(answered, Attention(own, query="answer"), edits=edits.block(Attention(own, query="answer", key="image")))
        largest = max(float(blocked.attention(layer=block, key="image").data.abs().max()) for block in own)
        yield Check("Attention that is blocked", largest, 0.0, "a masked key has no weight")


def _paths(model: Probe) -> dict[type[StateRead], dict[int, str]]:
    """For each part, block -> module path."""
    parts = model.modules.parts
    named: dict[type[StateRead], dict[int, str | None]] = {
        AttentionOutput: {block: part.attention for block, part in enumerate(parts)},
        MLPOutput: {block: part.mlp for block, part in enumerate(parts)},
        HeadOutput: {block: part.projection for block, part in enumerate(parts)},
    }
    known = {read: {block: path for block, path in of_blocks.items() if path} for read, of_blocks in named.items()}
    return {read: of_blocks for read, of_blocks in known.items() if of_blocks and read.__name__ not in model.modules.unreadable}


def _hooked_parts(
    model: Probe, answered: Answer, paths: dict[type[StateRead], dict[int, str]]
) -> dict[tuple[type[StateRead], int], Tensor]:
    kept: dict[tuple[type[StateRead], int], Tensor] = {}

    def keep(key: tuple[type[StateRead], int]) -> Callable[[Tensor], None]:
        return lambda states: kept.__setitem__(key, states)

    hooks = [
        _hook(model.model.get_submodule(path), "input" if read is HeadOutput else "output", keep((read, block)))
        for read, of_blocks in paths.items()
        for block, path in of_blocks.items()
    ]
    _forward(model, answered, hooks)
    return kept


def _logits(model: Probe, answered: Answer, path: str, side: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    return _forward(model, answered, [_hook(model.model.get_submodule(path), side, change)])


def _forward(model: Probe, answered: Answer, hooks: list[RemovableHandle]) -> Tensor:
    """The logits of a forward without nnsight, after which the hooks are removed."""
    try:
        with torch.no_grad():
            logits: Tensor = model.runtime.forward(answered.inputs).logits
            return logits
    finally:
        for hook in hooks:
            hook.remove()


def _hook(module: nn.Module, side: str, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """A hook that passes on the tensor, and puts what it gets back in its place."""
    if side == "input":

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            changed = act(inputs[0])
            return None if changed is None else (changed, *inputs[1:])

        return module.register_forward_pre_hook(before)

    def after(_: nn.Module, __: object, output: object) -> object:
        changed = act(first_tensor(output))
        return None if changed is None else with_first_tensor(output, changed)

    return module.register_forward_hook(after, prepend=True)


def _flat(trace: Trace, read: Read) -> Tensor:
    """A part of one block as the module has it: heads one after the other."""
    states = trace[read].data[0]
    return states.transpose(1, 2) if isinstance(read, HeadOutput) else states


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.flatten().double() - theirs.flatten().double()).abs().max())
