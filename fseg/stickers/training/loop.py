"""One loop for every stage: steps that can be repeated bit by bit, an average of the weights, a log, and states to go on from."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from fseg.errors import InvalidOption
from fseg.worlds.training.optimising import set_rate, trapezium

WORLD = "stickers"


@dataclass(frozen=True)
class Plan:
    """How long a stage trains, and where its files go.

    Attributes:
        stage: the name of the stage; its state is `folder`/STAGE.pt, its log `folder`/STAGE.jsonl.
        steps: in all, those before an interruption included.
        size: scenes in a step.
        every: steps between two measurements; the state is saved with each.
        fall: the share of the steps in which the rates fall to 0.
        average: the decay of the running average of the weights.
        apart: draw scenes in another process.
    """

    folder: Path
    stage: str
    steps: int
    size: int = 32
    rate: float = 2e-3
    every: int = 100
    warm: int = 150
    fall: float = 0.35
    average: float = 0.998
    seed: int = 0
    apart: bool = True

    @property
    def state(self) -> Path:
        """The file of the stage's state."""
        return self.folder / f"{self.stage}.pt"


class State(TypedDict):
    """What is in a file of a stage."""

    world: str
    stage: str
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimisers: list[dict[str, object]]
    step: int
    seconds: float


@dataclass
class Progress:
    """What a stage has reached."""

    step: int
    seconds: float
    average: nn.Module
    """The model with the running average of its weights."""


def read_state(file: Path) -> State:
    """The state in a file.

    Raises:
        InvalidOption: it is missing, or it belongs to another world.
    """
    if not file.exists():
        raise InvalidOption(f"{file} is missing: train the stage {file.stem!r} first.")
    state: State = torch.load(file, weights_only=True)
    world = state.get("world", "glyphs")  # the glyph world's states bear no name
    if world != WORLD:
        raise InvalidOption(f"{file} is a checkpoint of the world {world!r}, not of {WORLD!r}. Give another folder.")
    return state


def _save(plan: Plan, model: nn.Module, progress: Progress, steppers: list[torch.optim.Optimizer]) -> None:
    part = plan.state.with_suffix(".part")
    state: State = {
        "world": WORLD,
        "stage": plan.stage,
        "model": model.state_dict(),
        "average": progress.average.state_dict(),
        "optimisers": [stepper.state_dict() for stepper in steppers],
        "step": progress.step,
        "seconds": progress.seconds,
    }
    torch.save(state, part)
    part.replace(plan.state)


def begin(plan: Plan, model: nn.Module, steppers: list[torch.optim.Optimizer]) -> Progress:
    """Load the stage's state if there is one."""
    average = copy.deepcopy(model).requires_grad_(False)
    if not plan.state.exists():
        return Progress(0, 0.0, average)
    state = read_state(plan.state)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for stepper, kept in zip(steppers, state["optimisers"], strict=True):
        stepper.load_state_dict(kept)
    return Progress(state["step"], state["seconds"], average)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the weights; faster in the first steps, when the weights are still far from anything."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)


def _update(steppers: list[torch.optim.Optimizer]) -> None:
    for stepper in steppers:
        norm = torch.nn.utils.clip_grad_norm_([p for group in stepper.param_groups for p in group["params"]], 1.0)
        if torch.isfinite(norm):
            stepper.step()
        stepper.zero_grad()


def run(
    plan: Plan,
    model: nn.Module,
    steppers: list[torch.optim.Optimizer],
    losses: Callable[[int], dict[str, Tensor]],
    measured: Callable[[nn.Module], dict[str, float]],
    progress: Progress,
) -> nn.Module:
    """Train until `plan.steps`.

    Args:
        losses: the losses of a step, by name, weighted; their sum is minimised.
        measured: figures of a model on held-out scenes.

    Returns:
        The model with the average of the weights.
    """
    mean: dict[str, float] = {}
    started, before, first = time.monotonic(), progress.seconds, progress.step
    for step in range(first, plan.steps):
        parts = losses(step)
        torch.stack(list(parts.values())).sum().backward()
        for stepper in steppers:
            set_rate([stepper], trapezium(step, step / plan.steps, plan.warm, plan.fall))
        _update(steppers)
        _follow(progress.average, model, plan.average, step)
        values = {name: float(part.detach()) for name, part in parts.items()}
        share = 1 / min(50, step - first + 1)
        mean = {name: (1 - share) * mean.get(name, value) + share * value for name, value in values.items()}
        progress.step, progress.seconds = step + 1, before + time.monotonic() - started
        if progress.step % plan.every == 0 or progress.step == plan.steps:
            figures = {"step": progress.step, "minutes": progress.seconds / 60, **mean, **measured(progress.average)}
            with (plan.folder / f"{plan.stage}.jsonl").open("a") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")
            _save(plan, model, progress, steppers)
    return progress.average
