"""Plain Hugging Face changed by torch hooks: what edits have to equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Change = Callable[[Tensor], Tensor]
"""From a tensor to a new one of the same shape."""


@contextmanager
def module(hf: Any, path: str, change: Change, side: str = "output", *, prepend: bool = True) -> Iterator[None]:
    """A module whose output (the first of several), or first argument, goes through `change`.

    Args:
        prepend: ahead of the hooks that are there, such as those with which transformers records states.
    """
    found = hf.get_submodule(path)
    if side == "output":
        handle = found.register_forward_hook(
            lambda _, __, output: (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output), prepend=prepend
        )
    else:
        handle = found.register_forward_pre_hook(
            lambda _, args, kwargs: (
                ((change(args[0]), *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])})
            ),
            with_kwargs=True,
        )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def attention_call(hf: Any, path: str, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """A module whose attention call gets other arguments: `change` writes into {"query", "key", "value", "mask"}. The kernel stays."""
    changed = hf.get_submodule(path)
    functions = ALL_ATTENTION_FUNCTIONS

    def interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        kernel = functions.get(name, default)

        def wrapped(called: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            mask = kwargs.pop("attention_mask", mask)
            call = {"query": query, "key": key, "value": value, "mask": mask}
            if called is changed:
                change(call)
            return kernel(called, call["query"], call["key"], call["value"], call["mask"], *args, **kwargs)

        return wrapped

    functions.get_interface = interface
    try:
        yield
    finally:
        del functions.get_interface


def at(positions: list[int], change: Change, row: int | None = None) -> Change:
    """A change of these positions of (batch, token, feature), in one row or in all."""

    def act(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        for number in range(len(tensor)) if row is None else [row]:
            tensor[number, positions] = change(tensor[number, positions])
        return tensor

    return act


def at_heads(positions: list[int], heads: list[int], count: int, change: Change) -> Change:
    """A change of some heads (head, token, feature) of the features of these positions."""

    def act(tensor: Tensor) -> Tensor:
        by_head = tensor.clone().unflatten(-1, (count, -1)).transpose(1, 2)
        for number in range(len(by_head)):
            part = by_head[number][heads]
            part[:, positions] = change(part[:, positions])
            by_head[number, heads] = part
        return by_head.transpose(1, 2).reshape(tensor.shape)

    return act


@torch.no_grad()
def logits(hf: Any, inputs: Mapping[str, Any], *changes: Any) -> Tensor:
    """The logits of a plain forward under these changes."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        found: Tensor = hf(**inputs, use_cache=False).logits
    return found


def hook_count(hf: Any) -> int:
    """How many hooks there are on all modules, and global ones."""
    everywhere = torch.nn.modules.module
    own = (len(part._forward_hooks) + len(part._forward_pre_hooks) for part in hf.modules())
    return sum(own) + len(everywhere._global_forward_hooks) + len(everywhere._global_forward_pre_hooks)
