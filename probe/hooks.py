"""What a user did to a model that changes what it computes: forward hooks, and parameters that were replaced or written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

_RECORDING = "transformers.utils.output_capturing"
"""The module of the hooks with which transformers itself records outputs; they change nothing."""


def forward_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The forward hooks that may change what a module returns, global ones first."""
    hooks = (*torch_module._global_forward_hooks.values(), *module._forward_hooks.values())
    return [hook for hook in hooks if getattr(hook, "__module__", "") != _RECORDING]


def model_state(model: nn.Module) -> int:
    """A number that changes when forward hooks come or go, modules or parameters are replaced, or parameters are written to in place.

    What is written through `parameter.data` is not seen: PyTorch does not count it.
    """
    modules = tuple(
        (id(module), *map(id, forward_hooks(module)), *map(id, module._forward_pre_hooks.values())) for module in model.modules()
    )
    # Offloaded parameters are replaced by every forward, and their values lie elsewhere.
    parameters = tuple(
        (id(parameter), parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for parameter in model.parameters()
        if not parameter.is_meta
    )
    return hash((modules, parameters))
