"""Finite or refused: one reduction for each tensor that a pass reads, and one synchronisation for all of them."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

What = TypeVar("What")


class FiniteCheck(Generic[What]):
    """Collects tensors while a pass runs; says at its end which of them hold NaN or infinity."""

    def __init__(self) -> None:
        self._whats: list[What] = []
        self._marks: list[Tensor] = []

    def add(self, what: What, values: Tensor) -> None:
        """Have a tensor checked. Two numbers of it are kept, on its device.

        Args:
            what: names the tensor in `failed`.
        """
        if values.numel():
            low, high = torch.aminmax(values.detach())
            self._whats.append(what)
            self._marks.append(low * 0 + high * 0)  # NaN where either end is not finite, else 0

    def failed(self) -> list[What]:
        """What was added and is not finite, in the order in which it was added."""
        if not self._marks:
            return []
        device = self._marks[0].device
        bad: list[bool] = torch.stack([mark.to(device, torch.float32) for mark in self._marks]).isnan().tolist()
        return [what for what, is_bad in zip(self._whats, bad, strict=True) if is_bad]


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
