"""Optimisers and their rates."""

from __future__ import annotations

import torch
from torch import nn


def optimisers(modules: list[nn.Module], matrices: list[nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else. Every group stores its full rate as `full`."""
    hidden = [p for module in matrices for p in module.parameters() if p.ndim == 2]
    chosen = {id(p) for p in hidden}
    rest = [p for module in modules for p in module.parameters() if id(p) not in chosen and p.requires_grad]
    found = [
        torch.optim.Muon(hidden, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    for optimiser in found:
        for group in optimiser.param_groups:
            group["full"] = rate
    return found


def restore(steppers: list[torch.optim.Optimizer], kept: list[dict[str, object]] | None) -> None:
    """Load saved momenta, but not the saved rates, which belong to another run."""
    for stepper, state in zip(steppers, kept or [], strict=False):
        full = [group["full"] for group in stepper.param_groups]
        stepper.load_state_dict(state)
        for group, rate in zip(stepper.param_groups, full, strict=True):
            group["full"] = rate


def set_rate(optimisers: list[torch.optim.Optimizer], share: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["full"] * share


def trapezium(step: int, done: float, warm: int = 150, fall: float = 0.35) -> float:
    """The share of the full rate: it rises over the first steps, and falls to 0 over the last part of the time."""
    return min(1.0, (step + 1) / warm, max(0.0, (1 - done) / fall))
