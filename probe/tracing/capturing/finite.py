"""Checks that tensors are finite: one reduction for each tensor, and one synchronisation with the device for all of them."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name")


class FiniteCheck(Generic[Name]):
    """Collects tensors during a forward, and says afterwards which of them hold NaN or infinity."""

    def __init__(self) -> None:
        self._names: list[Name] = []
        self._marks: list[Tensor] = []

    def add(self, name: Name, values: Tensor) -> None:
        """Check a tensor. Only two of its numbers are kept, on its device.

        Args:
            name: identifies the tensor in `failed`.
        """
        if values.numel():
            low, high = torch.aminmax(values.detach())
            self._names.append(name)
            self._marks.append(low * 0 + high * 0)  # NaN where either end is not finite, else 0

    def failed(self) -> list[Name]:
        """The names of the tensors that are not finite, in the order in which they were added."""
        if not self._marks:
            return []
        device = self._marks[0].device
        bad: list[bool] = torch.stack([mark.to(device, torch.float32) for mark in self._marks]).isnan().tolist()
        return [name for name, is_bad in zip(self._names, bad, strict=True) if is_bad]


def is_finite(values: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; synchronises with its device."""
    check = FiniteCheck[None]()
    check.add(None, values)
    return not check.failed()


def advice(dtype: torch.dtype) -> str:
    """What to try when a model in this dtype computes NaN or infinity."""
    if dtype == torch.float16:
        return "float16 overflows beyond 65504: load the model with dtype='bfloat16' or 'float32'."
    if dtype == torch.bfloat16:
        return "Load the model with dtype='float32', and check its weights if that does not help."
    return "Check the checkpoint's weights, which may be damaged, and the inputs."
