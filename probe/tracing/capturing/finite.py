"""Checks that tensors are finite: one reduction for each tensor, and one synchronisation with the device for all of them."""

from __future__ import annotations

from functools import reduce
from typing import Generic, TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name")


class FiniteCheck(Generic[Name]):
    """Collects tensors during a forward, and says afterwards which of them hold NaN or infinity."""

    def __init__(self) -> None:
        self._names: list[Name] = []
        self._ends: list[tuple[Tensor, Tensor]] = []

    def add(self, name: Name, values: Tensor) -> None:
        """Check a tensor. Only its smallest and largest number are kept, on its device.

        Args:
            name: identifies the tensor in `failed`.
        """
        if values.numel():
            self._names.append(name)
            self._ends.append(torch.aminmax(values.detach()))

    def failed(self) -> list[Name]:
        """The names of the tensors that are not finite, in the order in which they were added."""
        if not self._ends:
            return []
        device = self._ends[0][0].device
        dtype = reduce(torch.promote_types, (low.dtype for low, _ in self._ends))
        ends = torch.stack([end.to(device, dtype) for pair in self._ends for end in pair])
        finite: list[bool] = ends.isfinite().view(-1, 2).all(1).tolist()
        return [name for name, is_whole in zip(self._names, finite, strict=True) if not is_whole]


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
