"""Changes that a user made to a model: hooks, replaced modules and forwards, parameters and buffers that were written to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_RECORDING = "transformers.utils.output_capturing"
"""The module of the hooks with which transformers itself records outputs; they change nothing."""

_Hook = Callable[..., object]


def forward_hooks(module: nn.Module) -> list[_Hook]:
    """The forward hooks that may change a module's output, global ones first."""
    return [hooks[number] for hooks in (torch_module._global_forward_hooks, module._forward_hooks) for number in _numbers(hooks)]


class ModelState:
    """The state of a model: its hooks, modules, parameters and buffers, and how often each tensor was written to.

    It holds weak references alone. A write through `parameter.data` is not noticed: PyTorch does not count it.
    """

    def __init__(self, model: nn.Module) -> None:
        modules, tensors = _parts(model)
        self._parts = [weakref.ref(part) for part in (*modules, *tensors)]
        self._counts, self._forwards = _counts(modules, tensors), _forwards(modules)

    def is_of(self, model: nn.Module) -> bool:
        """Whether the model is still in this state."""
        modules, tensors = _parts(model)
        parts, forwards = [*modules, *tensors], _forwards(modules)
        return (
            len(parts) == len(self._parts)
            and all(known() is part for known, part in zip(self._parts, parts, strict=True))
            and len(forwards) == len(self._forwards)
            and all(known is forward for known, forward in zip(self._forwards, forwards, strict=True))
            and self._counts == _counts(modules, tensors)
        )


def _numbers(hooks: Mapping[int, _Hook]) -> list[int]:
    """PyTorch's numbers of the hooks that may change an output. Unlike an `id`, a number is never used twice."""
    return [number for number, hook in hooks.items() if getattr(hook, "__module__", "") != _RECORDING]


def _parts(model: nn.Module) -> tuple[list[nn.Module], list[Tensor]]:
    """All modules, and their parameters and buffers, except offloaded ones: every forward replaces these."""
    modules = list(model.modules())
    held = (tensor for module in modules for tensors in (module._parameters, module._buffers) for tensor in tensors.values())
    return modules, [tensor for tensor in held if tensor is not None and not tensor.is_meta]


def _counts(modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> list[object]:
    """The numbers of all hooks, and the address and version of every tensor."""
    hooks: list[object] = [_numbers(torch_module._global_forward_hooks), list(torch_module._global_forward_pre_hooks)]
    hooks += [(_numbers(module._forward_hooks), list(module._forward_pre_hooks)) for module in modules]
    return hooks + [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _forwards(modules: Sequence[nn.Module]) -> list[object]:
    """For each module the function that replaces its own `forward`, or None; nnsight's wrapper does not count."""
    forwards = (module.__dict__.get("forward") for module in modules)
    return [None if type(forward).__module__.startswith("nnsight.") else forward for forward in forwards]
